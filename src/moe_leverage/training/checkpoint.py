"""Checkpoints of a run in progress: tensors in safetensors, the rest in one small JSON.

The JSON names the tensor file and its SHA-256 and is renamed into place last, so a process killed
at any instant leaves either the old checkpoint or the new one, never half of each; nothing that is
loaded can execute code.

    checkpoint.json                      format, run id, steps done, tensor file, digest, progress
    step-<steps>-<digest>.safetensors    weights, optimiser moments, losses so far
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from moe_leverage.rules import read_object, shown

FORMAT = 2  # of the JSON and of the tensor names; a reader refuses any other
INDEX = "checkpoint.json"


class CheckpointError(ValueError):
    """A checkpoint cannot be used; without it, its run can be begun again."""


def require_usable(holds: bool, path: Path, rule: str) -> None:
    """Raise a CheckpointError that names the file and the rule it breaks.

    >>> require_usable(False, Path("run") / INDEX, "not JSON")
    Traceback (most recent call last):
    moe_leverage.training.checkpoint.CheckpointError: checkpoint = 'run/checkpoint.json': not JSON
    """
    if not holds:
        raise CheckpointError(f"checkpoint = {shown(str(path))}: {rule}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped."""

    run_id: str  # identity of the RunConfig
    steps_done: int
    tensors: Mapping[str, torch.Tensor]
    progress: Mapping[str, Any]  # plain JSON values, such as seconds spent


def save(directory: Path, checkpoint: Checkpoint) -> Path:
    """Write `checkpoint` atomically into `directory`, drop the one before, return the index file.

    >>> import tempfile
    >>> state = Checkpoint(run_id="c0ffee", steps_done=3, tensors={"w": torch.ones(2)}, progress={})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     index = save(Path(folder), state)
    ...     load(Path(folder), run_id="c0ffee").steps_done
    3
    """
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / "tensors.partial"
    save_file({name: t.contiguous() for name, t in checkpoint.tensors.items()}, unfinished)
    digest = _digest(unfinished)
    tensors = f"step-{checkpoint.steps_done:08d}-{digest[:12]}.safetensors"
    _put(unfinished, directory / tensors)
    index = {
        "format": FORMAT,
        "run_id": checkpoint.run_id,
        "steps_done": checkpoint.steps_done,
        "tensors": tensors,
        "sha256": digest,
        "progress": dict(checkpoint.progress),
    }
    unfinished = directory / "index.partial"
    unfinished.write_text(json.dumps(index, indent=1) + "\n")
    _put(unfinished, directory / INDEX)
    for old in directory.glob("step-*.safetensors"):
        if old.name != tensors:
            old.unlink()
    return directory / INDEX


def load(directory: Path, *, run_id: str) -> Checkpoint | None:
    """The checkpoint in `directory`, None if there is none.

    Raises CheckpointError with the reason if it is damaged, of another format or of another run.
    """
    path = directory / INDEX
    is_folder = directory.is_dir() or not os.path.lexists(directory)
    require_usable(is_folder, directory, "is not a folder")
    if not path.is_file():
        require_usable(not os.path.lexists(path), path, "is not a file")
        return None
    index = _read_index(path)
    rule = f"belongs to run {shown(index['run_id'])[1:-1]}, not to this run, {run_id}"
    require_usable(index["run_id"] == run_id, path, rule)
    tensors = directory / Path(index["tensors"]).name
    require_usable(tensors.is_file(), path, f"its tensor file {tensors.name} is gone")
    rule = f"damaged: SHA-256 differs from the one in {INDEX}"
    require_usable(_digest(tensors) == index["sha256"], tensors, rule)
    try:
        loaded = load_file(tensors)
    except SafetensorError as error:
        raise CheckpointError(
            f"checkpoint = {shown(str(tensors))}: not safetensors: {error}"
        ) from None
    return Checkpoint(
        run_id=run_id,
        steps_done=index["steps_done"],
        tensors=loaded,
        progress=index["progress"],
    )


def _read_index(path: Path) -> dict[str, Any]:
    """The JSON beside the tensors, its fields checked."""
    try:
        index = read_object(path, "checkpoint")
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    require_usable("format" in index, path, "not the index of a checkpoint")
    rule = f"format {shown(index['format'])}, this version reads {FORMAT}"
    require_usable(index["format"] == FORMAT, path, rule)
    types = {"run_id": str, "steps_done": int, "tensors": str, "sha256": str, "progress": dict}
    for name, kind in types.items():
        rule = f"damaged: {name} must be of type {kind.__name__}"
        require_usable(type(index.get(name)) is kind, path, rule)
    return index


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put(unfinished: Path, path: Path) -> None:
    """Rename a finished file into place, on the disk and not only in its cache."""
    _sync(unfinished)
    unfinished.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
