"""Where runs go on at once: processes of this machine, or a Dask or Ray cluster, through joblib.

A stand-alone helper of the runner, without a section of the paper; the cluster libraries are
optional and imported only when they are asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from moe_leverage.rules import one_of, require, require_count, require_number

Backend = Literal["local", "dask", "ray"]
BACKENDS = ("local", "dask", "ray")
MOST_WORKERS, MOST_THREADS = 10_000, 1024  # beyond which no pool is meant
WATCH_SECONDS = 0.5  # between two looks of a worker whether its runner lives


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """How many runs go on at once, where, and with how many threads each."""

    workers: int = 1
    threads: int = 1  # of each run; part of its result's last digits
    backend: Backend = "local"
    address: str = ""  # of an existing Dask or Ray cluster; "": one on this machine
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    compile: bool | None = None  # None: where it repays; a result's last digits depend on it
    checkpoint_seconds: float = 60.0  # between two checkpoints of a run
    max_seconds: float = float("inf")  # no run is started later than this

    def __post_init__(self) -> None:
        require_count("workers", self.workers, 1, MOST_WORKERS)
        require_count("threads", self.threads, 1, MOST_THREADS)
        require_number("checkpoint_seconds", self.checkpoint_seconds, 0, 1e9, above=True)
        rule = "must be a number >= 0"  # without an end too: every run is started
        require(self.max_seconds >= 0, "max_seconds", self.max_seconds, rule)
        require(self.backend in BACKENDS, "backend", self.backend, one_of(BACKENDS))


@contextlib.contextmanager
def connected(pool: Pool) -> Iterator[None]:
    """Joblib's backend for a pool, connected to its cluster."""
    from joblib import parallel_config

    if pool.backend == "local":
        with parallel_config(
            "loky",
            inner_max_num_threads=pool.threads,
            initializer=_end_with,
            initargs=(os.getpid(),),
        ):
            yield
    elif pool.backend == "dask":
        distributed = _import("distributed", "dask")
        options = {"n_workers": pool.workers, "threads_per_worker": 1, "dashboard_address": None}
        with (
            distributed.Client(pool.address or None, **({} if pool.address else options)) as client,
            parallel_config("dask", client=client),
        ):
            yield
    else:
        ray = _import("ray", "ray")
        options = {} if pool.address else {"num_cpus": pool.workers, "include_dashboard": False}
        ray.init(pool.address or None, ignore_reinit_error=True, log_to_driver=False, **options)
        _import("ray.util.joblib", "ray").register_ray()
        try:
            with parallel_config("ray"):
                yield
        finally:
            ray.shutdown()


def deaths_of(pool: Pool) -> tuple[type[BaseException], ...]:
    """What a backend raises when its workers die."""
    if pool.backend == "dask":
        return (_import("distributed", "dask").KilledWorker,)
    if pool.backend == "ray":
        return (_import("ray.exceptions", "ray").RayError,)
    from joblib.externals.loky.process_executor import BrokenProcessPool

    return (BrokenProcessPool,)


def _import(module: str, extra: str) -> Any:
    """An optional dependency, or a ValueError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        rule = f"needs the extra: pip install 'moe-leverage[{extra}]'"
        raise ValueError(f"backend = {extra!r}: {rule}") from None


def _end_with(runner: int) -> None:
    """Let this worker keep a checkpoint and end when its runner tells it to, or is gone."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the runner, which passes it on

    def watch() -> None:
        while os.getppid() == runner:
            time.sleep(WATCH_SECONDS)
        while True:  # the first is caught by the run in progress, the next ends the process
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(WATCH_SECONDS)

    threading.Thread(target=watch, daemon=True).start()
