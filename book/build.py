"""`make book`: execute what changed, lay it out, render it strictly, put the site in place.

Every step leaves the last good result where it is until the next one is whole. What a reader can
get wrong ends in one line that names the thing, the value and the remedy.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from moe_leverage import locks
from moe_leverage.paths import BUILD

CORPUS_TIER = "smoke"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the book and return the exit code: 0, 1 for a failed chapter or page, 2 for misuse."""
    options = _parser().parse_args(arguments)
    try:
        with _alone():
            return _build(options)
    except (ValueError, OSError) as error:  # of the lock
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("stopped; what was finished is kept", 130)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold the one place where a book is built; a second build says whom it waits for."""
    lock = BUILD / ".book.lock"
    with locks.claim(lock) as is_mine:
        if is_mine:
            yield
            return
    print(f"book: waits for the build of process {locks.holder(lock)[0]}", flush=True)
    with locks.claim(lock, wait=True):
        yield


def _build(options: argparse.Namespace) -> int:
    """Execute, render and publish; the exit code."""
    # only here: they take seconds, in which Ctrl-C is answered, and the processes that execute
    # chapters load this file
    import execution
    import rendering
    from _ext import formulas

    from moe_leverage import corpus

    begin = time.perf_counter()
    try:
        formulas.require()  # before minutes of execution
        given = dict(_parameter(name, text) for name, text in options.parameters)
        digest = corpus.load(CORPUS_TIER).digest
        print("Chapters (seconds of their execution)", flush=True)
        for result in execution.execute(given, below=execution.ground(digest), jobs=options.jobs):
            name = f"notebooks/{result.chapter.name}"
            print(f"  {result.seconds:6.1f}  {name:36} {result.how}", flush=True)
        first_page = rendering.render(given)
    except (ValueError, OSError) as error:
        return _fail(error, 2)
    except RuntimeError as error:
        return _fail(error, 1)
    print(f"Site: {first_page} (this build took {time.perf_counter() - begin:.0f} s)")
    return 0


def _parameter(name: str, text: str) -> tuple[str, Any]:
    """A parameter with its value: a Python literal, or else the text itself."""
    try:
        return name, ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return name, text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="book/build.py", description=__doc__)
    parser.add_argument(
        "-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="a parameter of the chapters, for example: -p seed 1",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=2, help="chapters that run side by side")
    return parser


def _fail(error: Exception | str, code: int) -> int:
    print(f"book: {' '.join(str(error).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
