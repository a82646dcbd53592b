"""The house: its floors as the imports have them, and the page that describes them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import architecture
import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "architecture.md").read_text(encoding="utf-8")
ROOMS_TEXT, WALKS_TEXT = PAGE.split("## Five walks\n")
IMPORTS = architecture.room_imports()
ROOMS = sorted(IMPORTS)
WALKS = re.split(r"^### ", WALKS_TEXT, flags=re.MULTILINE)[1:]


def shown(room: str) -> str:
    """A room as the pages write it."""
    return f"{room}.py" if (architecture.PACKAGE / f"{room}.py").is_file() else f"{room}/"


def test_every_arrow_leads_down() -> None:
    assert architecture.faults(IMPORTS) == []


def test_every_room_has_one_floor_and_every_floor_its_rooms() -> None:
    placed = [name for rooms in architecture.FLOORS for name in rooms]
    assert sorted(placed) == ROOMS


def test_the_shell_of_the_package_holds_nothing() -> None:
    imports = architecture.module_imports()
    assert imports["__init__"] == set()
    assert imports["__main__"] == {"cli"}


@pytest.mark.parametrize(
    ("imports", "fault"),
    [
        ({"model": {"training"}, "training": set()}, "model (floor 4) imports training (floor 5)"),
        ({"paper": {"accounting"}, "accounting": {"paper"}}, "circle: "),
        ({"cellar": set()}, "cellar has no floor"),
    ],
)
def test_what_breaks_the_rule_is_named(imports: architecture.Imports, fault: str) -> None:
    assert [found for found in architecture.faults(imports) if found.startswith(fault)]


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    package = tmp_path / "moe_leverage"
    (package / "page").mkdir(parents=True)
    (package / "page" / "__init__.py").touch()
    (package / "page" / "theme.py").write_text("import numpy\n")
    lines = (
        "from moe_leverage import __version__\nimport moe_leverage.page.theme\n"
        "def late():\n    from moe_leverage import paths\n    from moe_leverage.page import theme\n"
    )
    for name, text in (("__init__", "__version__ = 0\n"), ("paths", ""), ("cli", lines)):
        (package / f"{name}.py").write_text(text)
    found = architecture.module_imports(package)
    assert found["cli"] == {"__init__", "page.theme", "paths"}
    assert architecture.room_imports(package)["cli"] == {"page", "paths"}


def test_an_import_that_does_not_say_from_where_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cli.py").write_text("from . import paths\n")
    with pytest.raises(ValueError, match=r"cli\.py = line 1: must import by the full name"):
        architecture.module_imports(tmp_path)


def test_the_picture_is_what_the_imports_give_today() -> None:
    drawn = architecture.svg(IMPORTS)
    assert architecture.PICTURE.read_text(encoding="utf-8") == drawn, (
        "run python book/architecture.py"
    )
    assert all(f">{shown(room)}</text>" in drawn for room in ROOMS)
    assert "](book/_static/architecture.svg)" in PAGE


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_has_a_paragraph_that_says_where_to_begin(room: str) -> None:
    floors = re.split(r"^### Floor ", ROOMS_TEXT, flags=re.MULTILINE)
    paragraph = next(
        text
        for text in floors[architecture.FLOOR_OF[room]].split("\n\n")
        if text.startswith(f"**`{shown(room)}`**: ")
    )
    begin = re.search(r"\bOpen\s.*?`([a-z_/]+\.py)`", paragraph, re.DOTALL)
    assert begin is not None
    assert (architecture.PACKAGE / begin[1]).is_file()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_the_page_is_linked(name: str) -> None:
    assert "](architecture.md)" in (ROOT / name).read_text(encoding="utf-8")


def test_the_table_of_the_readme_has_the_rooms_floor_by_floor() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## The package\n")[1]
    rows = re.findall(r"^\| (\d+) \| ((?:`[a-z_.]+/?`(?:, )?)+) \|", section, re.MULTILINE)
    listed = [(int(floor), room) for floor, rooms in rows for room in re.findall(r"`(.+?)`", rooms)]
    assert sorted(listed) == sorted((architecture.FLOOR_OF[room], shown(room)) for room in ROOMS)
    assert [floor for floor, _ in listed] == sorted(floor for floor, _ in listed)


def test_there_are_five_walks() -> None:
    assert len(WALKS) == 5


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.splitlines()[0])
def test_everything_that_a_walk_names_is_there(walk: str) -> None:
    named = re.findall(r"`([a-z_]+(?:\.\w+)+)`", walk)
    assert len(named) >= 5
    assert [name for name in named if not is_defined(name)] == []


def is_defined(name: str) -> bool:
    """Whether a dotted name is a module or stands in one: a function, a class, one of its parts."""
    parts = name.split(".")
    folder = ROOT if parts[0] == "book" else architecture.PACKAGE
    for count in range(len(parts), 0, -1):
        place = folder.joinpath(*parts[:count])
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                return _holds(ast.parse(path.read_text(encoding="utf-8")).body, parts[count:])
    return False


def _holds(body: list[ast.stmt], parts: list[str]) -> bool:
    if not parts:
        return True
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == parts[0]:
            return _holds(node.body, parts[1:])
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == parts[0] for t in targets):
            return len(parts) == 1
    return False


@pytest.mark.parametrize("name", ["page", "theory.laws.JointLaw", "book.build.main"])
def test_a_name_that_is_there_is_found(name: str) -> None:
    assert is_defined(name)


@pytest.mark.parametrize("name", ["attic", "theory.laws.OldLaw", "book.build.old", "config.Old.x"])
def test_a_name_that_is_not_there_is_missed(name: str) -> None:
    assert not is_defined(name)
