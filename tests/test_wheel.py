"""The wheel holds every room and all data, and runs each verb where the checkout is out of sight.

Nothing is fetched: beside the wheel, the environment is links to what the wheel's dependencies
brought here, and to nothing else that is installed.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement
from synthetic_runs import all_runs

from moe_leverage import cli, paths
from moe_leverage.studies import status
from moe_leverage.studies.place import Place

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "LICENSE-DATA")
SOURCES += ("src", "data")
REMNANTS = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.lock", ".*")
EXTRAS = ("notebooks",)  # of the package, which the links at the head of a chapter install
# the chapters that a link opens: all would take minutes, and the first cells of all show most
OPENED = ("04-activation-ratio", "12-your-own-runs", "tool-explorer")
CHAPTER = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
cells = json.load(open(sys.argv[1]))["cells"]
code = [c for c in cells if c["cell_type"] == "code"]
for cell in code[: int(sys.argv[2])]:
    shell.run_cell("".join(cell["source"])).raise_error()
"""
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def verbs() -> list[str]:
    """Every verb of every module of the command line, "study plan" among them."""
    for module in pkgutil.iter_modules(cli.__path__, f"{cli.__name__}."):
        importlib.import_module(module.name)

    def walk(command: object, path: tuple[str, ...]) -> list[str]:
        below = getattr(command, "commands", {})
        return [v for n, c in below.items() for v in walk(c, (*path, n))] or [" ".join(path)]

    return walk(typer.main.get_command(cli.app), ())


def needed(requirements: list[str]) -> set[str]:
    """The distributions that meet these requirements, and theirs, as far as they are here."""
    found: set[str] = set()
    waiting = [*requirements]
    while waiting:
        requirement = Requirement(waiting.pop())
        extras = ("", *EXTRAS)
        marker = requirement.marker
        wanted = marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)
        if wanted and requirement.name not in found and is_installed(requirement.name):
            found.add(requirement.name)
            waiting += metadata.requires(requirement.name) or []
    return found


def is_installed(name: str) -> bool:
    return any(True for _ in metadata.Distribution.discover(name=name))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy without what earlier builds left behind, which setuptools would pack again."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=REMNANTS)
        else:
            shutil.copyfile(ROOT / name, copy / name)
    return copy


def wheel_of(source: Path, into: Path) -> Path:
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", into]
    subprocess.run([*PIP, "wheel", *options, source], check=True)
    (wheel,) = into.glob("moe_leverage-*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel_of(checkout, tmp_path_factory.mktemp("wheel"))


class Installed:
    """The wheel in an environment of its own, started from another folder."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.site, self.elsewhere = folder / "site", folder / "elsewhere"
        self.elsewhere.mkdir()
        options = ["--no-deps", "--no-index", "--target", self.site]
        subprocess.run([*PIP, "install", *options, wheel], check=True)
        (own,) = metadata.distributions(name="moe-leverage", path=[str(self.site)])
        for name in needed(own.requires or []):
            installed = metadata.distribution(name)
            for top in {file.parts[0] for file in installed.files or []} - {"..", "__pycache__"}:
                if not (self.site / top).exists():
                    (self.site / top).symlink_to(Path(str(installed.locate_file(top))))

    def run(self, *arguments: object, code: int = 0) -> str:
        """What `python` printed, without the site packages of this environment."""
        own = {"PYTHONPATH": str(self.site), "HOME": str(self.elsewhere), "PATH": "/usr/bin:/bin"}
        command = [sys.executable, "-S", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.elsewhere, env=own, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"{arguments}: {done.stderr}"
        return done.stdout

    def verb(self, *arguments: object, code: int = 0) -> str:
        """What the installed command printed."""
        return self.run(self.site / "bin" / "moe-leverage", *arguments, code=code)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(wheel, tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def runs_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    all_runs(experts=(8, 32, 128), scales=(1, 4)).drop(columns="true_leverage").to_csv(path)
    return path


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {n for n in archive.namelist() if ".dist-info/" not in n}


def test_every_file_of_every_room_and_all_data_are_in_the_wheel(
    checkout: Path, wheel: Path
) -> None:
    rooms, data = checkout / "src" / "moe_leverage", checkout / "data"
    wanted = {p.relative_to(checkout / "src").as_posix() for p in rooms.rglob("*") if p.is_file()}
    wanted |= {f"moe_leverage/{p.relative_to(checkout)}" for p in data.rglob("*") if p.is_file()}
    assert names_in(wheel) == wanted
    assert {"moe_leverage/py.typed", "moe_leverage/instruments/__init__.py"} <= wanted


def test_the_source_archive_gives_the_same_wheel(
    checkout: Path, wheel: Path, tmp_path: Path
) -> None:
    (checkout / "tests").mkdir()
    (checkout / "tests" / "test_ledger.py").touch()
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=checkout, check=True, capture_output=True)
    (archive,) = tmp_path.glob("moe_leverage-*.tar.gz")
    with tarfile.open(archive) as packed:  # tests without what they need would not run
        assert [name for name in packed.getnames() if Path(name).name.startswith("test")] == []
    assert names_in(wheel_of(archive, tmp_path)) == names_in(wheel)


def test_what_runs_is_the_wheel_and_not_the_checkout(installed: Installed) -> None:
    code = "import moe_leverage, sys; print(moe_leverage.__file__); print(*sys.path)"
    file, path = installed.run("-c", code).splitlines()
    assert Path(file).parent == installed.site / "moe_leverage"
    assert str(ROOT) not in path
    assert "site-packages" not in path
    assert installed.verb("--version").startswith("moe-leverage ")


@pytest.mark.parametrize("verb", verbs())
def test_a_verb_says_what_it_does(installed: Installed, verb: str) -> None:
    shown = " ".join(installed.verb(*verb.split(), "--help").split())
    assert f"moe-leverage {verb} " in shown
    assert "Example: moe-leverage " in shown


@pytest.mark.parametrize(
    "arguments",
    [
        "predict --compute 1e20 --activation-ratio 0.031 --granularity 12 --json",
        "explain DeepSeek-V3 --json",
        "design --compute 1e20 --json",
        "compare DeepSeek-V3 Dense-6.1B --json",
        "audit --json",
        "corpus info --json",
        "study list --json",
        "study plan tuning --json",
        "study status --json",
    ],
)
def test_a_verb_that_trains_nothing_answers(installed: Installed, arguments: str) -> None:
    assert json.loads(installed.verb(*arguments.split()))


def test_the_ledger_in_the_wheel_is_verified_as_the_one_here(installed: Installed) -> None:
    problems = status.verify(Place())
    shown = installed.verb("study", "verify", "--json", code=1 if problems else 0)
    assert json.loads(shown)["problems"] == problems


def test_a_table_of_runs_is_fitted(installed: Installed, runs_csv: Path) -> None:
    report = installed.elsewhere / "report.html"
    record = json.loads(installed.verb("fit", runs_csv, "--report", report, "--json"))
    assert record["num_moe"] > 0
    assert record["leverage"]
    assert report.is_file()


def opened(installed: Installed, name: str, num_cells: int) -> None:
    """Run the first cells of a chapter where a link opens it: the page alone, and the wheel."""
    page = installed.elsewhere / f"{name}.ipynb"
    shutil.copyfile(ROOT / "notebooks" / page.name, page)
    installed.run("-c", CHAPTER, page, num_cells)


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "notebooks").glob("*.ipynb")))
def test_a_chapter_begins_where_a_link_opens_it(installed: Installed, name: str) -> None:
    opened(installed, name, 3)  # the package, the parameters, the imports


@pytest.mark.parametrize("name", OPENED)
def test_a_chapter_runs_where_a_link_opens_it(installed: Installed, name: str) -> None:
    wheels = installed.elsewhere / ".cache" / "moe-leverage" / "corpus" / "wheels"
    if not wheels.exists():  # what pip would download
        shutil.copytree(paths.CACHE / "corpus" / "wheels", wheels)
    opened(installed, name, 10**6)
