"""A failed write never replaces or litters what was there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moe_leverage import paths


def test_a_failed_write_leaves_the_good_file(tmp_path, monkeypatch):
    good = tmp_path / "figure.csv"
    paths.write_atomically(good, "good")

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        paths.write_atomically(good, "half")
    assert good.read_text() == "good"
    assert [p.name for p in tmp_path.iterdir()] == ["figure.csv"]


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_only_a_regular_file_is_ever_replaced(tmp_path, kind):
    path, good = tmp_path / "figure.csv", tmp_path / "good.csv"
    good.write_text("good")
    {"link": lambda: path.symlink_to(good), "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[
        kind
    ]()
    before = path.lstat()
    with pytest.raises(ValueError, match=r"^output = '.*': is a (link|directory|device)"):
        paths.write_atomically(path, "other")
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert good.read_text() == "good"


def test_a_write_that_fails_names_the_file_that_was_meant(tmp_path, monkeypatch):
    def refused(*rest):
        raise PermissionError(13, "Permission denied", "something.partial")

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(PermissionError) as error:
        paths.write_atomically(tmp_path / "figure.csv", "good")
    assert error.value.filename == str(tmp_path / "figure.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def installed(tmp_path):
    """A copy of the package in a folder of somebody else's repository, as pip would leave it."""
    site = tmp_path / "theirs" / "site"
    shutil.copytree(
        paths.PACKAGE, site / "moe_leverage", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(paths.DATA, site / "moe_leverage" / "data")
    git = ["git", "-C", site.parent, "-c", "user.name=n", "-c", "user.email=e"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "theirs"]):
        subprocess.run([*git, *arguments], check=True)
    return site


def answer(site, program, **environment):
    """What a program prints that finds the package in this folder alone."""
    own = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"], "MPLCONFIGDIR": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=own | environment, capture_output=True, text=True,
        check=False, cwd=site,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_commit_is_of_the_checkout_and_of_no_repository_around_it(installed):
    assert paths.commit() is not None or not (paths.PACKAGE.parents[1] / ".git").exists()
    program = "from moe_leverage import paths; print(paths.__file__, paths.commit())"
    file, commit = answer(installed, program).split()
    assert Path(file).is_relative_to(installed)
    assert commit == "None"


def test_a_checkout_copied_into_a_repository_has_no_commit_of_its_own(installed):
    copy = installed.parent / "copy"
    shutil.copytree(installed / "moe_leverage", copy / "src" / "moe_leverage")
    (copy / "data").mkdir()
    (copy / "pyproject.toml").touch()
    program = "from moe_leverage import paths; print(paths.DATA, paths.commit())"
    assert answer(copy / "src", program) == f"{copy / 'data'} None"


PREDICT = """
import sys
from moe_leverage import paths
sys.argv = "moe-leverage predict --activation-ratio 0.1 --granularity 4 --compute 1e20".split()
print(paths.CACHE)
from moe_leverage.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code
"""


def test_a_user_without_a_home_can_predict(installed):
    nobody = f"""
import os, pwd
def unknown(number):
    raise KeyError(number)
pwd.getpwuid = unknown
{PREDICT}"""
    cache, published, *_ = answer(installed, nobody, TMPDIR=str(installed)).splitlines()
    assert cache == str(installed / f"moe-leverage-{os.getuid()}")
    assert published.startswith("published law: EL = ")


def test_the_cache_is_where_the_environment_says(installed, tmp_path):
    elsewhere = str(tmp_path / "else where")
    assert answer(installed, PREDICT, MOE_LEVERAGE_CACHE=elsewhere).splitlines()[0] == elsewhere
    source = paths.PACKAGE.parent
    assert answer(source, PREDICT, MOE_LEVERAGE_CACHE=elsewhere).splitlines()[0] == elsewhere
