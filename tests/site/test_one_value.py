"""One quantity, one value: what pages quote by the same name is the same number everywhere."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import nbformat
import pytest

from moe_leverage.paths import BUILD

pytestmark = pytest.mark.site
VALUE = "application/papermill.record/text/plain"


def glued(notebooks: list[Path]) -> dict[str, dict[str, str]]:
    """Value by name and page of every number and text that pages give a name."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for path in notebooks:
        cells = nbformat.read(path, as_version=4).cells
        for output in [o for cell in cells for o in cell.get("outputs", [])]:
            name = output.get("metadata", {}).get("scrapbook", {}).get("name", "")
            if name:
                found[name][path.stem] = str(output["data"].get(VALUE, output["data"]))
    return found


def quarrels(found: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """The names that have more than one value."""
    return {name: pages for name, pages in found.items() if len(set(pages.values())) > 1}


def test_a_name_has_one_value_on_all_pages(site: Path) -> None:
    found = glued(sorted((BUILD / "executed").glob("[!.]*.ipynb")))
    assert len(found) > 100
    assert quarrels(found) == {}


def test_two_values_of_one_name_are_found(tmp_path: Path) -> None:
    for page, value in (("one", "0.31"), ("two", "0.29")):
        output = nbformat.v4.new_output(
            "display_data", {VALUE: value}, metadata={"scrapbook": {"name": "exponent"}}
        )
        cell = nbformat.v4.new_code_cell("", outputs=[output])
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / f"{page}.ipynb")
    found = glued(sorted(tmp_path.glob("*.ipynb")))
    assert quarrels(found) == {"exponent": {"one": "0.31", "two": "0.29"}}
