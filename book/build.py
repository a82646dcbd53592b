"""`make book`: execute what changed, lay it out, render it strictly, put the site in place.

Every step leaves the last good result where it is until the next one is whole. What a reader can
get wrong ends in one line that names the thing, the value and the remedy.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import execution
import fingerprint
import publishing
import staging
import yaml
from _ext import formulas
from _ext.addresses import pages_address
from chapters import ROOT

from moe_leverage import corpus, locks, paths
from moe_leverage.paths import BUILD, write_atomically

RENDERED = BUILD / "sphinx"
STATE = BUILD / "site.json"  # the hashes behind the site that is in place
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
    begin = time.perf_counter()
    try:
        formulas.require()  # before minutes of execution
        given = dict(_parameter(name, text) for name, text in options.parameters)
        digest = corpus.load(CORPUS_TIER).digest
        print("Chapters (seconds of their execution)", flush=True)
        for result in execution.execute(given, below=execution.ground(digest), jobs=options.jobs):
            name = f"notebooks/{result.chapter.name}"
            print(f"  {result.seconds:6.1f}  {name:36} {result.how}", flush=True)
        first_page = _render(given)
    except (ValueError, OSError) as error:
        return _fail(error, 2)
    except RuntimeError as error:
        return _fail(error, 1)
    print(f"Site: {first_page} (this build took {time.perf_counter() - begin:.0f} s)")
    return 0


def _render(given: dict[str, Any]) -> Path:
    """Stage, render and publish, unless the site in place already stands on the same hashes."""
    state = {"stage": staging.stage(_provenance(), given), "frame": staging.frame()}
    before = json.loads(STATE.read_text(encoding="utf-8")) if STATE.is_file() else {}
    first_page = publishing.SITE / "index.html"
    if state == before and first_page.is_file():
        return first_page
    if state["frame"] != before.get("frame"):
        shutil.rmtree(RENDERED, ignore_errors=True)
    STATE.unlink(missing_ok=True)
    _sphinx()
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    first_page = publishing.publish(
        RENDERED / "_build/html", pages_address(config["repository"]["url"])
    )
    write_atomically(STATE, json.dumps(state))
    return first_page


def _sphinx() -> None:
    """Render the stage; a warning is an error, and then no page of the attempt is kept."""
    program = Path(sys.executable).with_name("jupyter-book")
    places: list[str | Path] = [
        "--config",
        ROOT / "_config.yml",
        "--toc",
        ROOT / "_toc.yml",
        "--path-output",
        RENDERED,
    ]
    strict = ["-W", "-n", "--keep-going", "-q"]
    try:
        subprocess.run(
            [program, "build", staging.STAGE, *places, *strict],
            check=True,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
    except subprocess.CalledProcessError:
        # a page that is not read again would not repeat its warnings
        shutil.rmtree(RENDERED, ignore_errors=True)
        message = "the pages were not rendered, see above; the site in place is the last good one"
        raise RuntimeError(message) from None


def _provenance() -> dict[str, str]:
    """What the footer of every page says."""
    versions = {name: metadata.version(name).split("+")[0] for name in ("moe-leverage", "torch")}
    described = [f"{name} {version}" for name, version in versions.items()]
    return {
        "Commit": _commit(),
        "Data": fingerprint.of_files(ROOT, "data"),
        "Versions": ", ".join([*described, f"Python {platform.python_version()}"]),
    }


def _commit() -> str:
    """The commit with its date, which stands for the date of the build so that builds repeat."""
    found = paths.commit()
    if found is None:
        return "unknown"
    show = ["git", "-C", str(ROOT), "show", "--no-patch", "--format=%h of %cs", "HEAD"]
    commit = subprocess.run(show, capture_output=True, text=True, check=False).stdout.strip()
    status = ["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"]
    dirty = subprocess.run(status, capture_output=True, text=True, check=False).stdout.strip()
    return f"{commit}{', with changes' if dirty else ''}"


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
