"""What runs in C++ of our own, where, and why: the one door to `functions`.

A compiled step on a CPU calls these operators; everything else, and every tensor that an operator
does not take, goes to the plain expression beside the call, which says the same.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moe_leverage.model.native.functions import library, name_of_compiler
from moe_leverage.rules import require

WIDTH_MULTIPLE = 16  # of heads and of the experts' matrices: floats of the widest vector


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One operator in C++: the tensors that it takes, and why it is there."""

    instead_of: str  # what a compiled step would call without it
    because: str  # what that costs; `python -m bench kernels` measures it
    dtype: torch.dtype | None = torch.float32  # None: it reads whole numbers
    width_multiple: int = 1  # of the widths that are multiplied
    largest_width: int | None = None
    length_multiple: int = 1  # of a sequence

    def takes(self, tensor: Tensor, *widths: int) -> bool:
        """Whether it computes on tensors like this one, with matrices or heads of these widths."""
        if not _is_reached(tensor.device) or self.dtype not in (None, tensor.dtype):
            return False
        if self.length_multiple > 1 and tensor.shape[1] % self.length_multiple:
            return False
        return not any(
            width % self.width_multiple or (self.largest_width and width > self.largest_width)
            for width in widths
        )

    def conditions(self) -> str:
        """What `takes` asks, in words."""
        found = ["whole numbers" if self.dtype is None else "fp32"]
        if self.width_multiple > 1:
            found.append(f"widths in multiples of {self.width_multiple}")
        if self.largest_width:
            found.append(f"up to {self.largest_width}")
        if self.length_multiple > 1:
            found.append(f"sequences in multiples of {self.length_multiple}")
        return ", ".join(found)


OPERATIONS: Mapping[str, Operation] = {
    "attention": Operation(
        instead_of="scaled_dot_product_attention",
        because="it takes a matrix product a head and block of queries, only 16 or 32 wide inside",
        width_multiple=WIDTH_MULTIPLE,
        largest_width=128,  # beyond, the sums of a block of queries outgrow the nearest cache
        length_multiple=32,  # most queries that are attended to at once
    ),
    "multiply": Operation(
        instead_of="index_select and grouped_mm",
        because="it copies the rows, then packs each expert's matrix for some 32 of them",
        width_multiple=WIDTH_MULTIPLE,
    ),
    "outer": Operation(
        instead_of="index_select and grouped_mm",
        because="it copies the rows, then multiplies expert by expert",
        width_multiple=WIDTH_MULTIPLE,
    ),
    "gather": Operation(
        instead_of="index_select",
        because="the two products read rows where they lie, so that nothing is copied for both",
    ),
    "largest": Operation(
        instead_of="topk",
        because="it ranks token by token; without a branch a vector of them goes side by side",
    ),
    "place": Operation(
        instead_of="argsort",
        because="it sorts what counting alone puts in its place",
        dtype=None,
    ),
}


def runs_here(operation: str, tensor: Tensor, *widths: int) -> bool:
    """Whether this step, on tensors like this one, calls the operator in C++.

    It does in a step that is being compiled, and in no other: one that is not keeps the library's
    last bits, with which runs were recorded.

    >>> runs_here("largest", torch.zeros(4, 8))  # nothing is being compiled here
    False
    """
    return torch.compiler.is_compiling() and OPERATIONS[operation].takes(tensor, *widths)


def why() -> str:
    """The operators in C++, one a line: what each takes, and what it is there instead of.

    >>> print(why().splitlines()[-1])
    place (whole numbers) instead of argsort: it sorts what counting alone puts in its place
    """
    return "\n".join(
        f"{name} ({operation.conditions()}) instead of {operation.instead_of}: {operation.because}"
        for name, operation in OPERATIONS.items()
    )


def has_compiler() -> bool:
    """Whether the C++ compiler of this machine, or the one that CXX names, can be found."""
    return shutil.which(name_of_compiler()) is not None


def require_compiler(device: str) -> None:
    """There is a C++ compiler, and where `functions` is called it builds them.

    Raises ValueError if not: now, and not after a first step has begun.
    """
    rule = f"needs a C++ compiler, and there is no {name_of_compiler()}; CXX names another"
    require(has_compiler(), "compile", True, rule)
    if _is_reached(torch.device(device)):
        library("routing")


def require_scratch() -> None:
    """There is a folder for passing files that the compilers of a step can use.

    Raises ValueError if not: the C++ compiler builds where the variable TMPDIR says, and the
    commands that torch composes for it are cut at white space.
    """
    given = os.environ.get("TMPDIR", "")
    can_build = not given or (Path(given).is_dir() and os.access(given, os.W_OK | os.X_OK))
    require(
        can_build, "TMPDIR", given, "is no folder to write in, and compiled steps are built there"
    )
    name = "TORCHINDUCTOR_CACHE_DIR" if "TORCHINDUCTOR_CACHE_DIR" in os.environ else "TMPDIR"
    place = os.environ.get(name) or tempfile.gettempdir()
    rule = "has white space, at which the compiler's commands are cut; name a folder without"
    require(not re.search(r"\s", place), name, place, rule)


def _is_reached(device: torch.device) -> bool:
    """Whether the C++ can be built here and reads what lies on the device."""
    return sys.platform == "linux" and device.type == "cpu"
