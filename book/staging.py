"""Lays out what Sphinx reads: the executed chapters, the book's own pages and generated tables.

The stage mirrors the repository's paths, so that links to sources come out right. A file is
written only where its content differs, so that Sphinx renders only what changed.
"""

from __future__ import annotations

import ast
import copy
import functools
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import chapters
import counterparts
import execution
import fingerprint
import nbformat
import yaml
from chapters import ROOT, Chapter
from nbformat import NotebookNode

from moe_leverage import paths
from moe_leverage.instruments import SCRIPTS
from moe_leverage.page import theme
from moe_leverage.page.notation import notation, words
from moe_leverage.paths import BUILD, write_atomically

STAGE = BUILD / "stage"
PAGES = ("book", "*.md"), ("book", "*.bib"), ("book", "_static/**/*")  # copied as they are
DESCRIPTION_LENGTH = 200  # characters
EXPLORER = "tool-explorer"  # the page of every run
TRAINED = "what-we-trained"  # the page of what they have in common
FRAME = (
    "_config.yml", "_toc.yml", "book/_ext", "book/publishing.py", "book/icons.py",
    "book/serving.py", "requirements.lock", "package.json",
)  # fmt: skip


def stage(provenance: Mapping[str, str], given: Mapping[str, Any]) -> str:
    """Write the stage and return the hash of what it holds."""
    wanted = dict(_pages())
    wanted["provenance.json"] = json.dumps(dict(provenance)).encode()
    wanted |= {f"book/_static/{name}": text().encode() for name, text in SCRIPTS.items()}
    wanted["book/_static/theme.css"] = theme.stylesheet().encode()
    wanted["generated/notation.md"] = _notation_table().encode()
    wanted["generated/timings.md"] = _timings_table(given).encode()
    pages: dict[str, str] = {}  # of every label
    for chapter in chapters.chapters():
        executed = nbformat.read(execution.executed_path(chapter), as_version=4)
        pages |= dict.fromkeys(_labels(executed), f"notebooks/{chapter.name}")
        wanted |= {n: text.encode() for n, text in _quotable(chapter.name, executed)}
        for name in execution.drawn(executed):
            wanted[f"figures/{name}"] = (execution.FIGURES / name).read_bytes()
        wanted[f"notebooks/{chapter.name}.ipynb"] = _chapter_page(executed).encode()
    wanted["generated/counterparts.md"] = counterparts.table(pages).encode()
    _mirror(wanted)
    return fingerprint.of_files(STAGE, ".")


def frame() -> str:
    """The hash of what Sphinx does not watch by itself: settings, extensions, style, versions."""
    style = fingerprint.of_files(STAGE, "book/_static")
    return fingerprint.of_values(fingerprint.of_files(ROOT, *FRAME), style)


def _mirror(wanted: Mapping[str, bytes]) -> None:
    """Make the stage hold these files and no others."""
    for name, content in wanted.items():
        path = STAGE / name
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content)
    for path in [p for p in STAGE.rglob("*") if p.is_file()]:
        if path.relative_to(STAGE).as_posix() not in wanted:
            path.unlink()


def _pages() -> Iterator[tuple[str, bytes]]:
    for folder, pattern in PAGES:
        for path in sorted((ROOT / folder).glob(pattern)):
            if path.is_file():
                yield path.relative_to(ROOT).as_posix(), path.read_bytes()


def _chapter_page(executed: NotebookNode) -> str:
    """An executed chapter as the site shows it."""
    page = copy.deepcopy(executed)
    page.cells = [shown for cell in page.cells for shown in _shown(cell)]
    page.cells += _setup(executed)
    page.metadata["myst"] = {"html_meta": {"description": _description(page)}}
    return f"{nbformat.writes(page)}\n"


def _setup(executed: NotebookNode) -> list[NotebookNode]:
    """A fold at the end of a page with the imports and parameters that its code stands on.

    The cells themselves stay first and out of sight, so that the notebook to download runs.
    """
    sources = [c.source for c in executed.cells if c.cell_type == "code" and _is_setup(c)]
    text = "\n\n".join(sources)
    fold = f"::::{{dropdown}} Imports and parameters\n```python\n{text}\n```\n::::"
    cell = nbformat.v4.new_markdown_cell(fold, id="imports-and-parameters")
    return [cell] if sources else []


def _is_setup(cell: NotebookNode) -> bool:
    """Whether a cell only brings names in: imports, parameters, or what papermill put there."""
    tags = set(cell.metadata.get("tags", []))
    if any(tag.startswith(("hide-", "remove-")) for tag in tags):
        return False  # a chapter that says itself how a cell is shown is believed
    is_named = bool(tags & {execution.INJECTED, chapters.PARAMETERS})
    return is_named or cell.source.startswith(("import ", "from "))


def _description(page: NotebookNode) -> str:
    """The first paragraph without its markup, for search engines and previews."""
    blocks = "\n\n".join(c.source for c in page.cells if c.cell_type == "markdown").split("\n\n")
    prose = next((b for b in blocks if b[:1].isalpha() or b[:1] in "*`["), "")
    plain = re.sub(r"\{[a-z:]+\}|[`$*\\]|\[(?=[^]]*\]\()|\]\([^)]*\)", "", " ".join(prose.split()))
    return textwrap.shorten(plain, DESCRIPTION_LENGTH, placeholder=" …")


def _shown(cell: NotebookNode) -> Iterator[NotebookNode]:
    """The cell, and after it one cell for each figure, since a caption belongs to a whole cell."""
    if cell.cell_type != "code":
        yield cell
        return
    tags = set(cell.metadata.get("tags", []))
    parts = list(_parts(cell.outputs))
    prompt = _prompt(tags, parts)
    # a chapter that says itself how a cell is shown is believed
    if prompt and not any(tag.startswith(("hide-", "remove-")) for tag in tags):
        tags.add("hide-input")
    if _is_setup(cell):
        tags = tags - {"hide-input"} | {"remove-input"}
    for number, outputs in enumerate(parts):
        part = copy.deepcopy(cell)
        part.outputs, part.metadata["tags"] = outputs, sorted(tags)
        if number:
            # myst-nb leaves out cells without source
            part.id, part.source = f"{cell.id}-{number}", f"# output {number}"
            part.metadata["tags"] = sorted(tags - {"hide-input"} | {"remove-input"})
        options: dict[str, Any] = {}
        if prompt:
            options |= {"code_prompt_show": prompt, "code_prompt_hide": prompt}
        if outputs and "figure" in _facts(outputs[0]):
            options["figure"] = _figure(_facts(outputs[0]))
        part.metadata["mystnb"] = options
        yield part


def _prompt(tags: set[str], parts: list[list[NotebookNode]]) -> str | None:
    """What the fold of a cell is called, if its code is to be folded unasked."""
    if "hide-cell" in tags:
        return "Answer"
    if any("figure" in _facts(outputs[0]) for outputs in parts if outputs):
        return "Code of the figure"
    return None


def _parts(outputs: list[NotebookNode]) -> Iterator[list[NotebookNode]]:
    """Outputs in order, every figure alone; the first part belongs to the code."""
    part: list[NotebookNode] = []
    for output in outputs:
        facts = _facts(output)
        if "table" in facts:
            table, fold, _ = "".join(output.data["text/markdown"]).partition("::::\n")
            output.data["text/markdown"] = f"{table}\n{_downloads(facts['table'], 'csv')}\n{fold}"
        if "figure" in facts:
            if part:
                yield part
            yield [output]
            part = []
        else:
            part.append(output)
    if part or not outputs:
        yield part


def _labels(executed: NotebookNode) -> set[str]:
    """The labels of the figures and tables that a chapter shows."""
    facts = [_facts(o) for c in executed.cells if c.cell_type == "code" for o in c.outputs]
    prefixes = {"figure": "fig", "table": "tab"}
    return {f"{prefixes[k]}-{v}" for fact in facts for k, v in fact.items() if k in prefixes}


def _facts(output: NotebookNode) -> dict[str, Any]:
    facts: dict[str, Any] = output.get("metadata", {}).get("moe_leverage", {})
    return facts


def _figure(facts: Mapping[str, Any]) -> dict[str, str]:
    """The options of a numbered figure: its name, its caption with the finding, how it came."""
    parts = [_downloads(facts["figure"], "svg", "png", "csv")]
    if facts.get("function", "").startswith("moe_leverage."):
        parts.append(_computed(facts))
    if any(facts.get("studies", {}).values()) and Chapter(TRAINED).notebook.is_file():
        parts.append(f"[what we trained](../notebooks/{TRAINED}.ipynb)")
    if facts.get("runs") and Chapter(EXPLORER).notebook.is_file():
        parts.append(f"[runs](../notebooks/{EXPLORER}.ipynb)")
    caption = f"{facts['caption']} {facts['finding']}\n\n{' · '.join(parts)}"
    return {"name": f"fig-{facts['figure']}", "caption": caption}


def _computed(facts: Mapping[str, Any]) -> str:
    """How a figure was computed: function, data files and runs, each a link where it has one."""
    name = facts["function"].removeprefix("moe_leverage.")
    files = [f"data/{file}" for file in facts["data"]]
    stands_on = [f"[{file}]({_address(file)})" for file in files if (ROOT / file).exists()]
    stands_on += [f"{count or 'no'} runs of `{study}`" for study, count in facts["studies"].items()]
    how = f"Computed by [{name}]({_source_address(facts['function'])})"
    return f"{how} from {', '.join(stands_on)}" if stands_on else how


def _address(path: str) -> str:
    """Where the repository shows a file as it was for this build."""
    return f"{_tree()}/{path}"


@functools.cache
def _tree() -> str:
    """The repository's files at the commit that is built, or of its branch where none is known."""
    repository = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    commit, _ = paths.commit() or (repository["branch"], None)
    return f"{repository['url']}/blob/{commit}"


def _quotable(chapter: str, executed: NotebookNode) -> Iterator[tuple[str, str]]:
    """Each figure as text that another page includes: the drawing, its finding, and its place."""
    outputs = [o for cell in executed.cells for o in cell.get("outputs", [])]
    for output in outputs:
        if name := _facts(output).get("figure"):
            place = f"{{numref}}`fig-{name}` of {{doc}}`../notebooks/{chapter}`"
            svg = "".join(output.data["text/html"])
            text = f"```{{raw}} html\n{svg}\n```\n\n{_facts(output)['finding']} ({place})\n"
            yield f"generated/figures/{name}.md", text


def _downloads(name: str, *suffixes: str) -> str:
    links = (f"{{download}}`{s.upper()} <../figures/{name}.{s}>`" for s in suffixes)
    return " · ".join(links)


def _source_address(function: str) -> str:
    """Where the repository shows the lines of a function that is named with its module."""
    module, name = function.rsplit(".", 1)
    path = Path("src", *module.split(".")).with_suffix(".py")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    lines = f"#L{found[0].lineno}-L{found[0].end_lineno}" if found else ""
    return f"{_address(path.as_posix())}{lines}"


def _notation_table() -> str:
    """Every symbol of data/notation.toml with its meaning, name in code and place; its words."""
    rows = [
        f'| <span id="symbol-{s["code"].replace("_", "-")}"></span>${s["tex"]}$ '
        f"| {s['meaning']} | `{s['code']}` | {s['unit']} | {s['source']} |"
        for s in notation().to_dict("records")
    ]
    head = ["| Symbol | Meaning | In code | Unit | Defined in |", "|:--|:--|:--|:--|:--|"]
    told = [
        f'| <span id="word-{word["code"]}"></span>{word["names"][0]} | {word["meaning"]} |'
        for word in words()
    ]
    return "\n".join([*head, *rows, "", "| Word | Meaning |", "|:--|:--|", *told]) + "\n"


def _timings_table(given: Mapping[str, Any]) -> str:
    """How long each chapter took when it was last executed."""
    taken = {c: execution.seconds_taken(c) for c in chapters.chapters()}
    rows = [f"| {{doc}}`../notebooks/{c.name}` | {s:.1f} |" for c, s in taken.items()]
    told = ", ".join(f"`{k} = {v!r}`" for k, v in given.items()) or "the defaults"
    head = [f"Parameters: {told}.", "", "| Chapter | Seconds |", "|:--|--:|"]
    return "\n".join([*head, *rows, f"| all | {sum(taken.values()):.1f} |"]) + "\n"
