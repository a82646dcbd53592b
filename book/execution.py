"""Runs the chapters through papermill, each only when something that it depends on has changed.

A chapter depends on its code cells, its parameters and the ground they stand on: `src/`, `data/`,
the lock and the corpus. One hash says so. New prose around old code takes over the old outputs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import chapters
import fingerprint
import nbformat
import papermill
from chapters import ROOT, Chapter
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from moe_leverage.paths import BUILD, write_atomically

# a kernel that ends in the middle of a message is told of by its cell's error alone
logging.getLogger("tornado.general").setLevel(logging.CRITICAL)

EXECUTED = BUILD / "executed"
FAILED = BUILD / "failed"
FIGURES = BUILD / "figures"
KERNEL_START_SECONDS = 180  # on a machine busy with other work; papermill would wait for 60
QUIET = ["--log-level=CRITICAL"]  # a kernel told to stop may log that it was interrupted
INJECTED = "injected-parameters"  # the tag that papermill gives to the cell it adds
GROUND = ("src", "data", "requirements.lock")


@dataclass(frozen=True, slots=True)
class Result:
    """One executed chapter: what happened to it now, and how long its execution took."""

    chapter: Chapter
    seconds: float
    how: str  # "executed", "new prose, kept outputs" or "unchanged"


class ChapterFailed(RuntimeError):
    """A cell of a chapter raised; the message names chapter, cell and error in one line."""


def ground(corpus_digest: str) -> str:
    """The hash of everything below the chapters."""
    return fingerprint.of_values(fingerprint.of_files(ROOT, *GROUND), corpus_digest)


def execute(given: Mapping[str, Any], *, below: str, jobs: int) -> Iterator[Result]:
    """Bring every executed chapter up to date, one by one; the first failure ends it."""
    sources = [(c, chapters.read(c)) for c in chapters.chapters()]
    plans = [(c, n, chapters.overrides(c, n, given)) for c, n in sources]
    os.environ.update(_kernel_environment(jobs))
    stale = []
    for chapter, source, changed in plans:
        key = _key(source, changed, below)
        kept = _kept(chapter, key)
        if kept is None:
            stale.append((chapter, source, changed, key))
        else:
            yield _refresh(chapter, source, kept)
    # processes, not threads: papermill changes the working folder while a notebook runs
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from _run_all(pool, stale)


def _run_all(pool: Executor, stale: list[tuple[Any, ...]]) -> Iterator[Result]:
    # also in the processes that begin here, which else would print where they were loading
    with _interrupts(signal.SIG_BLOCK):
        futures = [pool.submit(_run, *arguments) for arguments in stale]
    try:
        for future in as_completed(futures):
            yield future.result()
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise


@contextlib.contextmanager
def _interrupts(how: int) -> Iterator[None]:
    """Let Ctrl-C wait until the end of the block (SIG_BLOCK), or end it at once (SIG_UNBLOCK)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(how, {signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def executed_path(chapter: Chapter) -> Path:
    """Where the executed notebook of a chapter lies."""
    return EXECUTED / f"{chapter.name}.ipynb"


def seconds_taken(chapter: Chapter) -> float:
    """How long the kept execution of a chapter took."""
    return float(_record(chapter)["seconds"])


@_interrupts(signal.SIG_UNBLOCK)
def _run(chapter: Chapter, source: NotebookNode, changed: dict[str, Any], key: str) -> Result:
    """Execute one chapter in this process and keep it, or leave it under build/failed."""
    partial = EXECUTED / f".{chapter.name}.partial.ipynb"
    partial.parent.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as sockets:
            # the kernel listens on files, since a port may be taken by the kernel beside it
            local = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
            executed = papermill.execute_notebook(
                source,
                partial,
                changed,
                cwd=chapter.notebook.parent,
                progress_bar=False,
                start_timeout=KERNEL_START_SECONDS,
                config=local,
                extra_arguments=QUIET,
            )
    except PapermillExecutionError as error:
        FAILED.mkdir(parents=True, exist_ok=True)
        shutil.move(partial, FAILED / chapter.notebook.name)
        message = " ".join(str(error.evalue).split())
        place = f"notebooks/{chapter.name}, cell {error.exec_count}"
        kept = f"build/failed/{chapter.notebook.name} shows how far it came"
        raise ChapterFailed(f"{place}: {error.ename}: {message}; {kept}") from None
    finally:
        partial.unlink(missing_ok=True)
    seconds = time.perf_counter() - begin
    # without its record a notebook counts as never executed, so an interruption here is harmless
    _record_path(chapter).unlink(missing_ok=True)
    _write(chapter, _with_outputs(source, executed))
    record = {"key": key, "seconds": round(seconds, 1), "parameters": changed}
    write_atomically(_record_path(chapter), json.dumps(record))
    return Result(chapter, seconds, "executed")


def _refresh(chapter: Chapter, source: NotebookNode, kept: NotebookNode) -> Result:
    """Put the kept outputs into the chapter's present prose."""
    fresh = _with_outputs(source, kept)
    changed = _write(chapter, fresh)
    how = "new prose, kept outputs" if changed else "unchanged"
    return Result(chapter, seconds_taken(chapter), how)


def _with_outputs(source: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """The source with the outputs of an execution of the same code, free of times and paths."""
    fresh: NotebookNode = nbformat.from_dict(source)
    ran = iter([c for c in executed.cells if c.cell_type == "code"])
    cells = []
    for cell in fresh.cells:
        cells.append(cell)
        if cell.cell_type != "code":
            continue
        donor = next(ran)
        if INJECTED in donor.metadata.get("tags", []):
            cells.insert(-1, _bare(donor))
            donor = next(ran)
        cell.outputs, cell.execution_count = donor.outputs, donor.execution_count
    fresh.cells = cells
    fresh.metadata.language_info = executed.metadata.language_info
    return fresh


def _bare(injected: NotebookNode) -> NotebookNode:
    """The cell that papermill added, with its tag and nothing of the moment."""
    bare: NotebookNode = nbformat.from_dict(injected)
    bare.metadata, bare.id = nbformat.from_dict({"tags": [INJECTED]}), INJECTED
    return bare


def _key(source: NotebookNode, changed: Mapping[str, Any], below: str) -> str:
    code = [[c.source, c.metadata] for c in source.cells if c.cell_type == "code"]
    return fingerprint.of_values(code, source.metadata.get("kernelspec"), dict(changed), below)


def _kept(chapter: Chapter, key: str) -> NotebookNode | None:
    """The earlier execution, if it has this key and its figures are still there."""
    if not executed_path(chapter).is_file() or _record(chapter).get("key") != key:
        return None
    notebook = nbformat.read(executed_path(chapter), as_version=4)
    return notebook if all((FIGURES / name).is_file() for name in drawn(notebook)) else None


def drawn(notebook: NotebookNode) -> Iterator[str]:
    """The files in build/figures that the outputs of a notebook speak of."""
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    for output in outputs:
        facts = output.get("metadata", {}).get("moe_leverage", {})
        suffixes = ("svg", "png", "csv") if "figure" in facts else ("csv",)
        if name := facts.get("figure") or facts.get("table"):
            yield from (f"{name}.{suffix}" for suffix in suffixes)


def _write(chapter: Chapter, notebook: NotebookNode) -> bool:
    """Write an executed notebook if it differs from the one there; say whether it did."""
    content = nbformat.writes(notebook) + "\n"
    path = executed_path(chapter)
    if path.is_file() and path.read_text(encoding="utf-8") == content:
        return False
    write_atomically(path, content)
    return True


def _record(chapter: Chapter) -> dict[str, Any]:
    path = _record_path(chapter)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _record_path(chapter: Chapter) -> Path:
    return EXECUTED / f"{chapter.name}.json"


def _kernel_environment(jobs: int) -> dict[str, str]:
    """Share the cores between the kernels, and keep what they write out of the home folder."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    own = {"IPYTHONDIR": str(BUILD / "ipython"), "PYTHONHASHSEED": "0", "MPLBACKEND": "agg"}
    return dict.fromkeys(names, threads) | own
