"""The chapters as files: which there are, whether a pair agrees, what a chapter can be told.

A chapter is a pair, `NN-name.md` (MyST, the source for people) and `NN-name.ipynb` (the same
without outputs, for Jupyter, Binder and Colab). The newer half wins when the two differ.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml
from jupytext.cli import jupytext as jupytext_command
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = "parameters"  # the tag of the one cell that papermill may override
SETUP = """\
from importlib.util import find_spec

package = "moe-leverage[notebooks] @ git+{repository}"
if find_spec("moe_leverage") is None:  # as on Colab, which opens the notebook alone
    get_ipython().run_line_magic("pip", f"install --quiet '{{package}}'")"""


@dataclass(frozen=True, slots=True)
class Chapter:
    """One notebook of the table of contents."""

    name: str

    @property
    def notebook(self) -> Path:
        """The half of the pair that is executed."""
        return ROOT / "notebooks" / f"{self.name}.ipynb"

    @property
    def text(self) -> Path:
        """The half of the pair that is written and reviewed."""
        return ROOT / "notebooks" / f"{self.name}.md"


def chapters(toc: Path = ROOT / "_toc.yml") -> list[Chapter]:
    """Every notebook that the table of contents names, in its order."""
    parts = yaml.safe_load(toc.read_text(encoding="utf-8"))["parts"]
    files = [entry["file"] for part in parts for entry in part["chapters"]]
    return [Chapter(Path(f).name) for f in files if f.startswith("notebooks/")]


def read(chapter: Chapter) -> NotebookNode:
    """The chapter as it is to be executed, after its pair has been brought in step."""
    for half in (chapter.notebook, chapter.text):
        if not half.is_file():
            remedy = "jupytext --to ipynb or --to md:myst writes it from its other half"
            raise ValueError(f"chapter = {half.relative_to(ROOT)}: no such file; {remedy}")
    if differences(chapter):
        _bring_in_step(chapter)
    notebook: NotebookNode = nbformat.read(chapter.notebook, as_version=4)
    return notebook


def differences(chapter: Chapter) -> list[str]:
    """Where the two halves of a pair disagree, one line each; empty when they agree."""
    text = [_essence(c) for c in jupytext.read(chapter.text).cells]
    notebook = [_essence(c) for c in nbformat.read(chapter.notebook, as_version=4).cells]
    found = [f"{len(text)} cells in .md, {len(notebook)} in .ipynb"]
    found = found if len(text) != len(notebook) else []
    pairs = enumerate(zip(text, notebook, strict=False))
    return found + [f"cell {i}: .md {a!r}, .ipynb {b!r}" for i, (a, b) in pairs if a != b]


def setup() -> str:
    """The first cell of every chapter, which makes the page run where it is opened alone."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return SETUP.format(repository=config["repository"]["url"])


def parameters(notebook: NotebookNode) -> dict[str, Any]:
    """The names and defaults in the cell tagged `parameters`."""
    tagged = [c for c in notebook.cells if PARAMETERS in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"cells tagged '{PARAMETERS}' = {len(tagged)}: a chapter has exactly one")
    found = {}
    for statement in ast.parse(tagged[0].source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            found[statement.targets[0].id] = ast.literal_eval(statement.value)
    return found


def overrides(chapter: Chapter, notebook: NotebookNode, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given parameters that differ from the chapter's defaults; unknown names are errors."""
    known = parameters(notebook)
    for name, value in given.items():
        if name not in known:
            names = ", ".join(known)
            raise ValueError(f"{name} = {value!r}: {chapter.name} knows only {names}")
    return {name: value for name, value in given.items() if known[name] != value}


def _bring_in_step(chapter: Chapter) -> None:
    """Write the older half of a pair anew from the newer one; cells keep their ids."""
    ages = {half: half.stat().st_mtime_ns for half in (chapter.text, chapter.notebook)}
    newer = max(ages, key=lambda half: ages[half])
    print(f"  {chapter.name}: the halves differ, {newer.name} is newer and wins", flush=True)
    target = ["--to", "ipynb", "--update"] if newer == chapter.text else ["--to", "md:myst"]
    jupytext_command(["--quiet", *target, str(newer)])


def _essence(cell: NotebookNode) -> tuple[str, str, dict[str, Any]]:
    """What must agree between the halves: kind, source and metadata, not ids and outputs."""
    metadata = {k: v for k, v in cell.metadata.items() if v and k not in ("trusted", "collapsed")}
    return cell.cell_type, cell.source.rstrip(), metadata


def main() -> None:
    """Bring every pair in step: `make sync`."""
    for chapter in chapters():
        read(chapter)


if __name__ == "__main__":
    main()
