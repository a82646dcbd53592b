"""The build's promises, on a book of two small chapters: what is redone, what a mistake leaves."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jupytext
import pytest
from _ext import formulas
from bs4 import BeautifulSoup

from moe_leverage import corpus, paths
from moe_leverage.locks import claim

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
COPIED = ("src", "data", "book/_ext", "book/_static", "_config.yml", "pyproject.toml")
COPIED += (
    "requirements.lock",
    "package.json",
    "book/references.bib",
    "book/notation.md",
    "book/timings.md",
)
INTRO = "# Start\n\nA test {cite:p}`kaplan2020scaling` of {numref}`fig-line`.\n"
TOC = """
format: jb-book
root: book/intro
parts:
  - numbered: true
    chapters: [{file: notebooks/01-first}, {file: notebooks/02-second}]
  - chapters: [{file: book/notation}, {file: book/timings}, {file: book/bibliography}]
"""
HEADER = "---\nkernelspec: {display_name: Python 3, language: python, name: python3}\n---\n\n"
PARAMETERS = "```{code-cell}\n:tags: [parameters]\n\nseed = 0\n```\n\n"
FIRST = f"""{HEADER}# First

The old prose, and {{glue:text}}`exponent:.4f`, of $A$ and again $A$.

$$ A = \\frac{{E_a}}{{E}} $$

{PARAMETERS}```{{code-cell}}
import pandas as pd
from moe_leverage.page import registry
from moe_leverage.page.chapter import numbers
from moe_leverage.theory.laws import PUBLISHED
numbers(exponent=PUBLISHED.moe_model.exponent)
```

```{{code-cell}}
def line(table):
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots()
    axes.plot(table["x"])
    return registry.Drawing(figure, table, "It rises.")

print("said before")
registry.figure("line", paper="none", caption="A line.")(line)
registry.show("line", pd.DataFrame({{"x": [1.0, 2.0]}}))
registry.show_table("rows", pd.DataFrame({{"x": [1.0, 2.0]}}), "Two rows")
```
"""
SECOND = f"""{HEADER}# Second

See {{numref}}`tab-rows`.

{PARAMETERS}```{{code-cell}}
seed + 1
```
"""


@dataclass
class Book:
    """A small book in a folder of its own, built by the very scripts of this one."""

    root: Path

    def write(self, name: str, text: str) -> None:
        """Write both halves of a chapter."""
        path = self.root / "notebooks" / f"{name}.md"
        path.write_text(text)
        jupytext.write(jupytext.reads(text, "md:myst"), path.with_suffix(".ipynb"))

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert old in text
        (self.root / path).write_text(text.replace(old, new))

    def build(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(self.root / "src"), "OMP_NUM_THREADS": "1"}
        environment |= variables
        command = [sys.executable, "book/build.py", *arguments]
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )

    def page(self, name: str) -> str:
        return (self.root / "build/html/notebooks" / f"{name}.html").read_text()


def states(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What happened to each chapter, from what the build printed."""
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^ +[\d.]+  notebooks/(\S+) +(.+)$", done.stdout, re.MULTILINE)
    return dict(rows)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Book:
    try:
        corpus.load("smoke")
        formulas.require()
    except ValueError as error:
        pytest.skip(str(error))
    book = Book(tmp_path_factory.mktemp("book"))
    for folder in ("book", "notebooks"):
        (book.root / folder).mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "ledger")
    for name in (*COPIED, *(f"book/{p.name}" for p in (ROOT / "book").glob("*.py"))):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(
            ROOT / name, book.root / name, **({"ignore": ignore} if (ROOT / name).is_dir() else {})
        )
    (book.root / "book/intro.md").write_text(INTRO)
    (book.root / "book/bibliography.md").write_text("# Works\n\n```{bibliography}\n```\n")
    (book.root / "book/moved.toml").write_text('"index" = "book/intro"\n')
    (book.root / "_toc.yml").write_text(TOC)
    (book.root / ".cache").symlink_to(paths.CACHE)
    (book.root / "node_modules").symlink_to(formulas.PACKAGES)
    book.write("01-first", FIRST)
    book.write("02-second", SECOND)
    assert states(book.build()) == {"01-first": "executed", "02-second": "executed"}
    return book


def test_outputs_become_numbered_figures_and_tables(book: Book) -> None:
    page = book.page("01-first")
    assert re.search(r'<figure[^>]* id="fig-line"', page)
    assert "Fig. 1.1" in page
    assert "A line. It rises." in page
    assert "Table 1.1" in page
    assert "said before" in page
    assert ">Table 1.1<" in book.page("02-second")


def test_formulas_are_drawn_with_each_glyph_once(book: Book) -> None:
    page = BeautifulSoup(book.page("01-first"), "html.parser")
    found = page.select(".math")
    assert [formula["data-tex"] for formula in found] == ["A", "A", r"A = \frac{E_a}{E}"]
    assert all(formula.select_one("svg[aria-hidden]") for formula in found)
    assert [formula.math.get_text() for formula in found] == ["A", "A", "A=EaE"]
    names = [str(glyph["id"]) for glyph in page.select("svg.glyphs path")]
    assert sorted(set(names)) == sorted(names)
    used = {str(use["href"]) for formula in found for use in formula.select("use")}
    assert used == {f"#{name}" for name in names}
    assert not page.select(".math defs, script[src*=mathjax]")


def test_a_second_build_does_nothing(book: Book) -> None:
    before = (book.root / "build/html").stat().st_mtime_ns
    assert states(book.build()) == {"01-first": "unchanged", "02-second": "unchanged"}
    assert (book.root / "build/html").stat().st_mtime_ns == before


def test_new_prose_keeps_the_outputs(book: Book) -> None:
    book.edit("notebooks/01-first.md", "The old prose", "The new prose")
    done = states(book.build())
    assert done == {"01-first": "new prose, kept outputs", "02-second": "unchanged"}
    assert "The new prose" in book.page("01-first")
    assert "It rises." in book.page("01-first")
    assert "The new prose" in (book.root / "notebooks/01-first.ipynb").read_text()


def test_a_new_cell_executes_its_chapter_alone(book: Book) -> None:
    book.edit("notebooks/02-second.md", "seed + 1", "seed + 2")
    assert states(book.build()) == {"01-first": "unchanged", "02-second": "executed"}


def test_a_new_coefficient_and_a_parameter_reach_the_pages(book: Book) -> None:
    assert "0.5095" in book.page("01-first")
    book.edit("data/paper/coefficients.toml", "0.5095", "0.5195")
    done = states(book.build("-p", "seed", "7"))
    assert done == {"01-first": "executed", "02-second": "executed"}
    assert "0.5195" in book.page("01-first")
    assert book.page("02-second").count("tag_injected-parameters") == 1


def test_a_mistake_is_one_line_and_changes_nothing(book: Book) -> None:
    before = book.page("01-first")
    done = book.build("-p", "sede", "1")
    message = "book: sede = 1: 01-first knows only seed\n"
    assert (done.returncode, done.stderr) == (2, message)
    assert book.page("01-first") == before


def test_a_folder_where_the_lock_belongs_is_one_line(book: Book) -> None:
    lock = book.root / "build" / ".book.lock"
    lock.mkdir()
    try:
        done = book.build()
    finally:
        lock.rmdir()
    assert done.returncode == 2
    assert done.stderr.startswith("book: lock = ")
    assert done.stderr.endswith("is a folder where a lock belongs; remove it\n")
    assert done.stderr.count("\n") == 1


def test_a_second_build_at_the_same_time_waits_and_a_stopped_one_says_so(book: Book) -> None:
    command = [sys.executable, "book/build.py"]
    environment = os.environ | {"PYTHONPATH": str(book.root / "src"), "OMP_NUM_THREADS": "1"}

    def started() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=book.root, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job's ignores it
        )  # fmt: skip

    with claim(book.root / "build" / ".book.lock") as is_mine:
        assert is_mine
        second, third = started(), started()
        for waits in (second, third):
            assert waits.stdout is not None
            line = waits.stdout.readline()
            assert line == f"book: waits for the build of process {os.getpid()}\n"
        third.send_signal(signal.SIGINT)
        assert third.communicate(timeout=60)[1] == "book: stopped; what was finished is kept\n"
        assert third.returncode == 130
        assert second.poll() is None
    said, error = second.communicate(timeout=120)
    assert (second.returncode, error) == (0, "")
    assert "Site: " in said


@pytest.mark.parametrize("when", ["while it loads", "while a cell runs"])
def test_ctrl_c_ends_a_build_in_one_line(book: Book, tmp_path: Path, when: str) -> None:
    begun = tmp_path / "begun"
    cell = f"seed + 2; open({str(begun)!r}, 'w').close(); import time; time.sleep(99)"
    book.edit("notebooks/02-second.md", "seed + 2", cell)
    build = subprocess.Popen(
        [sys.executable, "book/build.py"], cwd=book.root, text=True,
        env=os.environ | {"PYTHONPATH": str(book.root / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert build.stdout is not None
    assert build.stdout.readline().startswith("Chapters")
    while when == "while a cell runs" and not begun.exists() and build.poll() is None:
        time.sleep(0.05)
    os.killpg(build.pid, signal.SIGINT)  # as a terminal does: to every process of the build
    try:
        error = build.communicate(timeout=90)[1]
    finally:
        book.edit("notebooks/02-second.md", cell, "seed + 2")
    assert (build.returncode, error) == (130, "book: stopped; what was finished is kept\n")


def test_a_missing_corpus_is_one_line(book: Book) -> None:
    (book.root / ".cache").unlink()
    done = book.build()
    (book.root / ".cache").symlink_to(paths.CACHE)
    assert done.returncode == 2
    assert re.fullmatch(r"book: corpus = 'smoke': not built; run .+\n", done.stderr)


def test_a_failing_cell_leaves_the_good_site(book: Book) -> None:
    before = book.page("02-second")
    book.edit("notebooks/02-second.md", "seed + 2", "seed / 0")
    done = book.build()
    book.edit("notebooks/02-second.md", "seed / 0", "seed + 2")
    assert done.returncode == 1
    assert re.match(r"book: notebooks/02-second, cell \d: ZeroDivisionError: .+\n$", done.stderr)
    assert (book.root / "build/failed/02-second.ipynb").is_file()
    assert book.page("02-second") == before
    assert states(book.build())["02-second"] == "unchanged"  # the good outputs are there


def test_a_broken_reference_leaves_the_good_site(book: Book) -> None:
    before = book.page("02-second")
    book.edit("notebooks/02-second.md", "tab-rows", "tab-nowhere")
    for _ in range(2):  # the second attempt must not pass for want of reading the page again
        done = book.build()
        assert done.returncode == 1
        assert "tab-nowhere" in done.stderr
    assert book.page("02-second") == before


def test_an_unreadable_formula_is_named_and_leaves_the_good_site(book: Book) -> None:
    before = book.page("02-second")
    book.edit("notebooks/02-second.md", "See {numref}", r"A $\nosuch$ word. See {numref}")
    failed = book.build()
    assert failed.returncode == 1
    assert r"formula = '\\nosuch': Undefined control sequence \nosuch" in failed.stderr
    assert book.page("02-second") == before
    book.edit("notebooks/02-second.md", r"A $\nosuch$ word. ", "")


def test_without_node_nothing_begins(book: Book, tmp_path: Path) -> None:
    failed = book.build(PATH=str(tmp_path))
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("book: node = none found: install Node.js")
    assert failed.stderr.count("\n") == 1
