"""Where a run executes: device, threads, processes, and what the machine can do at best.

Nothing here changes a result beyond floating-point order, which is why none of it is part of a
`RunConfig`; the record of a run states it all. What only several processes need is imported when
there are several: it would double the time that the package takes to load.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from moe_leverage import __version__, paths
from moe_leverage.model.native import door
from moe_leverage.record import Record
from moe_leverage.rules import one_of, require, require_count, require_number
from moe_leverage.training.size import memory_bytes

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}  # of torch.distributed, by device type
PEAK_WIDTH = {"cpu": 1024, "mps": 2048, "cuda": 8192}  # square matrices that measure the peak
PEAK_REPEATS = 8
MOST_THREADS = 1024  # of one process; more than any machine has cores for
MOST_SHAPES = 10_000  # that one process may compile
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution(Record):
    """How to execute a run; the defaults suit one process on whatever device there is.

    Started by torchrun, each process takes an equal share of every batch. `ddp` keeps the whole
    model in every process, `fsdp` a shard of every weight.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int = 0  # of one process on the CPU; 0: torch's own choice
    compile: bool = False  # steps 1.3 to 1.8 times as fast after 5 to 25 s; needs a C++ compiler
    dispatch: Literal["grouped", "loop"] = "grouped"  # loop where the device has no grouped matmul
    parallel: Literal["ddp", "fsdp"] = "ddp"
    micro_batch_sequences: int = 0  # sequences of one forward pass; 0: the process's whole share
    checkpoint_seconds: float = 60.0  # wall time between two checkpoints

    def __post_init__(self) -> None:
        require_count("threads", self.threads, 0, MOST_THREADS)
        require_count("micro_batch_sequences", self.micro_batch_sequences, 0)
        require_number("checkpoint_seconds", self.checkpoint_seconds, 0, 1e9, above=True)
        for name, options in (("dispatch", ("grouped", "loop")), ("parallel", ("ddp", "fsdp"))):
            require(getattr(self, name) in options, name, getattr(self, name), one_of(options))
        if self.compile:
            door.require_scratch()
        if self.device != "auto":
            is_there = self.device in available_devices()
            rule = f"not on this machine, which has {', '.join(available_devices())}"
            require(is_there, "device", self.device, rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The execution resolved: this process's device, its place among the others, its kernels."""

    execution: Execution
    device: torch.device
    rank: int
    num_processes: int
    dispatch: Literal["grouped", "loop"]

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def autocast(self, precision: str) -> torch.autocast:
        """bf16 matrix products if `precision` is bf16; weights and losses stay fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")

    def sum(self, values: Tensor) -> Tensor:
        """`values` summed over all processes, in place."""
        if self.num_processes > 1:
            dist.all_reduce(values)
        return values

    def any_of(self, *flags: bool) -> list[bool]:
        """Each flag, or whether any process raised it."""
        if self.num_processes == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.int32, device=self.device)
        return [bool(flag) for flag in self.sum(raised).tolist()]

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.num_processes > 1:
            dist.barrier()

    @contextlib.contextmanager
    def exchange_gradients(self, model: nn.Module, *, when: bool) -> Iterator[None]:
        """Average the gradients of a backward pass inside over the processes, if `when`."""
        if self.num_processes == 1:
            yield
        elif self.execution.parallel == "fsdp":
            cast(Any, model).set_requires_gradient_sync(when)
            yield
        else:
            with contextlib.nullcontext() if when else cast(Any, model).no_sync():
                yield

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model`, on the device, compiled if wanted, its gradients averaged over processes."""
        model = model.to(self.device)
        if self.execution.compile:
            _let_shapes_differ()
            model.compile()
        if self.num_processes == 1:
            return model
        if self.execution.parallel == "ddp":
            from torch.nn.parallel import DistributedDataParallel

            return DistributedDataParallel(model)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.num_processes,))
        for layer in model.get_submodule("layers").children():
            fully_shard(layer, mesh=mesh)
        # By default the outermost weights stay whole after a forward pass without a backward one,
        # and would then be neither merged nor saved as shards.
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
        return model


@contextlib.contextmanager
def machine_of(execution: Execution, precision: str = "fp32") -> Iterator[Machine]:
    """The machine for `execution`, its threads and process group set up and put back after.

    >>> with machine_of(Execution(device="cpu")) as machine:
    ...     machine.device.type, machine.num_processes
    ('cpu', 1)
    """
    kind = available_devices()[0] if execution.device == "auto" else execution.device
    num_processes, rank = share_of_torchrun()
    starts_group = num_processes > 1 and not dist.is_initialized()
    threads = torch.get_num_threads()
    device = torch.device(kind)
    if kind == "cuda":
        device = torch.device(kind, from_torchrun("LOCAL_RANK", 0))
        torch.cuda.set_device(device)
    if execution.compile:
        door.require_compiler(kind)
    if kind == "cpu":
        _keep_freed_memory()
    if execution.threads:
        torch.set_num_threads(execution.threads)
    if starts_group:
        require(kind in BACKENDS, "device", kind, "cannot be shared by several processes")
        dist.init_process_group(BACKENDS[kind])
    try:
        yield Machine(
            execution=execution,
            device=device,
            rank=rank,
            num_processes=num_processes,
            dispatch=_dispatch(execution, device, precision),
        )
    finally:
        torch.set_num_threads(threads)
        if starts_group:
            dist.destroy_process_group()


def share_of_torchrun() -> tuple[int, int]:
    """How many processes share a run, and the number of this one, as torchrun tells them.

    Raises ValueError for an environment that torchrun never makes: a number left by another
    launcher would keep the record of a whole run from being written.

    >>> share_of_torchrun()
    (1, 0)
    """
    size, rank = from_torchrun("WORLD_SIZE", 1), from_torchrun("RANK", 0)
    require(rank < size, "RANK", rank, f"must be below WORLD_SIZE, {size}")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if size > 1 else ():
        text = os.environ.get(name, "")
        require(text != "", name, text, f"is not set and WORLD_SIZE is {size}; use torchrun")
    from_torchrun("MASTER_PORT", 1)
    return size, rank


def from_torchrun(name: str, default: int) -> int:
    """A whole number that torchrun tells its processes through the environment.

    >>> from_torchrun("NO_SUCH_VARIABLE", 1)
    1
    """
    text = os.environ.get(name, str(default))
    is_count = text.isascii() and text.isdigit() and len(text) < 10
    require(is_count and int(text) >= default, name, text, "is not what torchrun sets")
    return int(text)


def room(execution: Execution) -> tuple[str, float]:
    """The device type of an execution and the bytes of memory that it has."""
    kind = available_devices()[0] if execution.device == "auto" else execution.device
    if kind != "cuda":
        return kind, memory_bytes()
    return kind, float(torch.cuda.mem_get_info(from_torchrun("LOCAL_RANK", 0))[1])


def available_devices() -> list[str]:
    """Device types of this machine, the fastest first; the CPU is always there."""
    found = ["cuda"] if torch.cuda.is_available() else []
    found += ["mps"] if torch.backends.mps.is_available() else []
    return [*found, "cpu"]


def whole(tensor: Tensor) -> Tensor:
    """A tensor of the model or optimiser as it would be in a single process."""
    gathered: Tensor = cast(Any, tensor).full_tensor() if _is_sharded(tensor) else tensor
    return gathered


def like(tensor: Tensor, value: Tensor) -> Tensor:
    """`value`, a whole tensor, on the device and in the shards of `tensor`."""
    value = value.to(tensor.device)
    if not _is_sharded(tensor):
        return value
    from torch.distributed.tensor import distribute_tensor

    sharded = cast(Any, tensor)
    return distribute_tensor(value, sharded.device_mesh, sharded.placements)


def measured_peak(machine: Machine, precision: str) -> float:
    """FLOP/s of the best of several large square matrix products, on this process's device."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return _measured_peak(machine.device, dtype, torch.get_num_threads())


def environment(machine: Machine) -> dict[str, Any]:
    """Versions, commit, device and layout of processes: what a record says about where it ran."""
    is_cuda = machine.device.type == "cuda"
    return {
        "moe_leverage": __version__,
        **{name: version(name) for name in ("torch", "numpy")},
        "python": platform.python_version(),
        **_commit(),
        "device": machine.device.type,
        "device_name": torch.cuda.get_device_name(machine.device) if is_cuda else _cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),  # the last digits depend on it
        "threads": torch.get_num_threads(),
        "processes": machine.num_processes,
        "parallel": machine.execution.parallel if machine.num_processes > 1 else "none",
        "compile": machine.execution.compile,
        "dispatch": machine.dispatch,
        "micro_batch_sequences": machine.execution.micro_batch_sequences,
    }


@functools.cache
def _keep_freed_memory() -> None:
    """Let glibc keep freed memory for the rest of the process, instead of giving it back.

    Each step asks for the same large arrays again; their pages, fresh and zeroed by the system,
    would take up to a tenth of it.
    """
    with contextlib.suppress(OSError, AttributeError):  # where the C library is another one
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 2**30)


def _let_shapes_differ() -> None:
    """Lift the compiler's limit of eight shapes a function, beyond which it would not compile.

    A worker of a study trains many shapes; each is compiled once, and found again in the cache on
    disk by every later process.
    """
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = MOST_SHAPES
    dynamo.accumulated_recompile_limit = MOST_SHAPES


def _is_sharded(tensor: Tensor) -> bool:
    """Whether this is a DTensor, asked without importing the class."""
    return hasattr(tensor, "full_tensor")


def _dispatch(
    execution: Execution, device: torch.device, precision: str
) -> Literal["grouped", "loop"]:
    """The wanted dispatch, or the loop where a tiny grouped matmul does not run."""
    if execution.dispatch == "loop":
        return "loop"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rows = torch.ones(2, 8, dtype=dtype, device=device, requires_grad=True)
    matrices = torch.ones(1, 8, 8, dtype=dtype, device=device)
    ends = torch.full((1,), 2, dtype=torch.int32, device=device)
    try:
        loss: Tensor = F.grouped_mm(rows, matrices, offs=ends).square().sum()
        torch.autograd.grad(loss, rows)
    except (RuntimeError, NotImplementedError):
        return "loop"
    return "grouped"


@functools.cache
def _measured_peak(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    width = PEAK_WIDTH[device.type]
    left, right = torch.ones(2, width, width, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(PEAK_REPEATS):
        start = time.perf_counter()
        (left @ right)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * width**3 / best


@functools.cache
def _commit() -> dict[str, Any]:
    """Commit of the checkout the package runs from, and whether it is dirty; None without one."""
    commit, is_dirty = paths.commit() or (None, None)
    return {"commit": commit, "dirty": is_dirty}


def _cpu_name() -> str:
    """The processor's own name where the system tells it, else its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
