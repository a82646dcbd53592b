"""The chapters as sources: both halves agree, one cell of parameters, nothing defined in a page."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import chapters
import jupytext
import nbformat
import pytest
import yaml
from chapters import Chapter
from packaging.requirements import Requirement

CHAPTERS = chapters.chapters()
DEFINE = {"appendix-build-an-moe"}  # the one chapter that builds the layer in the page
LONGEST_CELL = 12  # lines
MEDIAN_CELL = 4  # lines
NUM_EXERCISES = 3  # at least, in a chapter with a number


def code(chapter: Chapter) -> list[nbformat.NotebookNode]:
    return [c for c in nbformat.read(chapter.notebook, 4).cells if c.cell_type == "code"]


def ids(chapter: Chapter) -> str:
    return chapter.name


every_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)


def test_the_book_has_its_chapters_and_no_notebook_stands_outside_it() -> None:
    names = {c.name for c in CHAPTERS}
    assert len(names) == len(CHAPTERS) >= 13
    for suffix in ("md", "ipynb"):
        files = {p.stem for p in (chapters.ROOT / "notebooks").glob(f"*.{suffix}")}
        assert files == names


@every_chapter
def test_both_halves_agree_cell_by_cell(chapter: Chapter) -> None:
    assert chapters.differences(chapter) == []


def test_a_difference_between_the_halves_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    text = "```{code-cell}\n:tags: [parameters]\n\nseed = 0\n```\n"
    notebook = jupytext.reads(text, "md:myst")
    chapter = Chapter("tiny")
    chapter.text.write_text(text)
    jupytext.write(notebook, chapter.notebook)
    assert chapters.differences(chapter) == []
    notebook.cells[0].metadata["tags"] = ["parameters", "hide-input"]
    jupytext.write(notebook, chapter.notebook)
    assert "hide-input" in chapters.differences(chapter)[0]


@every_chapter
def test_a_chapter_keeps_no_outputs(chapter: Chapter) -> None:
    assert all(not c.outputs and c.execution_count is None for c in code(chapter))


@every_chapter
def test_a_chapter_has_the_parameters_of_the_book(chapter: Chapter) -> None:
    notebook = nbformat.read(chapter.notebook, 4)
    assert chapters.parameters(notebook) == {"seed": 0}


@every_chapter
def test_the_first_cell_brings_the_package_where_it_is_not(chapter: Chapter) -> None:
    first = code(chapter)[0]
    assert first.source == chapters.setup()
    assert first.metadata["tags"] == ["remove-cell"]


def test_what_the_first_cell_installs_is_this_project_with_what_pages_need() -> None:
    ran: list[tuple[str, str]] = []
    shell = SimpleNamespace(run_line_magic=lambda *given: ran.append(given))
    source = chapters.setup()
    exec(source, {"get_ipython": lambda: shell})
    assert ran == []  # it is here
    exec(source.replace('"moe_leverage"', '"no_such_package"'), {"get_ipython": lambda: shell})
    ((magic, line),) = ran
    requirement = Requirement(line.removeprefix("install --quiet '").removesuffix("'"))
    project = tomllib.loads((chapters.ROOT / "pyproject.toml").read_text())["project"]
    address = yaml.safe_load((chapters.ROOT / "_config.yml").read_text())["repository"]["url"]
    assert (magic, requirement.name, requirement.url) == ("pip", project["name"], f"git+{address}")
    assert requirement.extras <= set(project["optional-dependencies"])


@every_chapter
def test_an_unknown_parameter_is_named_with_its_value(chapter: Chapter) -> None:
    notebook = nbformat.read(chapter.notebook, 4)
    with pytest.raises(ValueError, match=r"sede = 1: .* knows only seed"):
        chapters.overrides(chapter, notebook, {"sede": 1})
    assert chapters.overrides(chapter, notebook, {"seed": 3}) == {"seed": 3}
    assert chapters.overrides(chapter, notebook, {"seed": 0}) == {}


def num_statement_lines(source: str) -> int:
    """Lines of a cell without its imports and empty lines."""
    lines = [line for line in source.splitlines() if line.strip()]
    return len(lines) - sum(
        node.end_lineno - node.lineno + 1
        for node in ast.parse(source).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    )


@every_chapter
def test_a_chapter_is_thin(chapter: Chapter) -> None:
    cells = code(chapter)
    lengths = [num_statement_lines(c.source) for c in cells]
    if chapter.name not in DEFINE:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        nodes = [n for c in cells for n in ast.walk(ast.parse(c.source))]
        assert not [n for n in nodes if isinstance(n, kinds)]
        assert median(lengths) <= MEDIAN_CELL
    assert max(lengths) <= LONGEST_CELL


@pytest.mark.parametrize("chapter", [c for c in CHAPTERS if c.name[0].isdigit()], ids=ids)
def test_a_chapter_has_exercises_each_with_an_answer_that_runs(chapter: Chapter) -> None:
    text = chapter.text.read_text(encoding="utf-8").split("## Exercises\n")[1]
    _, *exercises = re.split(r"^\*\*(\d+)\.\*\* ", text, flags=re.MULTILINE)
    assert exercises[::2] == [str(i + 1) for i in range(len(exercises) // 2)]
    assert len(exercises) // 2 >= NUM_EXERCISES
    assert all(":tags: [hide-cell]" in exercise for exercise in exercises[1::2])
