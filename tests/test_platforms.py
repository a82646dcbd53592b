"""Where the package runs: other users, other paths, places that none may write, other systems."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from moe_leverage import cli, paths

STRANGER = 54_321  # a number without a name, a home or a right
AS_STRANGER = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
RUNS = """kind,A,G,flops,loss
dense,1,2,1e18,3.60
dense,1,2,1e19,3.20
dense,1,2,1e20,2.88
moe,0.03,4,1e18,3.30
moe,0.03,4,1e19,2.95
"""
# one process for all of them: what they load takes longer than what they do
PROGRAM = """
import sys
from moe_leverage.cli import main
for line in sys.argv[1:]:
    sys.argv = ["moe-leverage", *line.split()]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, line
"""
VERBS = (
    "predict --activation-ratio 0.1 --granularity 4 --compute 1e20",
    "explain Ling-mini-beta",
    "study status",
    "study verify",
    "corpus info --tier smoke",
    "fit runs.csv --report report.html",
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="moe leverage ünïcode ") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def stranger_can_start_python() -> bool:
    if os.name != "posix" or os.getuid() != 0 or shutil.which("setpriv") is None:
        return False
    command = [*AS_STRANGER, sys.executable, "-c", "import numpy"]
    return subprocess.run(command, env={}, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_a_user_without_name_home_or_rights_works_in_a_checkout_that_none_may_write(
    folder: Path,
) -> None:
    if not stranger_can_start_python():
        pytest.skip("needs root, setpriv and an environment that everybody may read")
    checkout, own = folder / "späce and ß", folder / "öwn"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(paths.PACKAGE, checkout / "src" / "moe_leverage", ignore=ignored)
    shutil.copytree(paths.DATA, checkout / "data")
    (checkout / "pyproject.toml").touch()
    before = {path: path.stat().st_mtime_ns for path in checkout.rglob("*")}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    own.mkdir()
    os.chown(own, STRANGER, STRANGER)
    (own / "runs.csv").write_text(RUNS)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(checkout / "src"),
        "MOE_LEVERAGE_CACHE": str(own / "cache"),
    }
    done = subprocess.run(
        [*AS_STRANGER, sys.executable, "-c", PROGRAM, *VERBS],
        cwd=own, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "published law: EL = " in done.stdout
    assert (own / "report.html").stat().st_uid == STRANGER
    assert {path: path.stat().st_mtime_ns for path in checkout.rglob("*")} == before


# Windows has none of these; the libraries find their own way there, so only we go without.
POSIX_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "syslog")
WITHOUT = f"""
import builtins
real = builtins.__import__
def import_(name, globals=None, *rest, **named):
    ours = (globals or {{}}).get("__name__", "").startswith("moe_leverage")
    if ours and name.partition(".")[0] in {POSIX_MODULES}:
        raise ImportError(name)
    return real(name, globals, *rest, **named)
builtins.__import__ = import_
"""
EVERY_MODULE = """
import importlib, pkgutil, moe_leverage
for module in pkgutil.walk_packages(moe_leverage.__path__, "moe_leverage."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


@pytest.mark.slow
def test_every_module_is_imported_and_verbs_answer_where_posix_modules_are_missing(
    tmp_path: Path,
) -> None:
    (tmp_path / "runs.csv").write_text(RUNS)
    done = subprocess.run(
        [sys.executable, "-c", f"{WITHOUT}{EVERY_MODULE}{PROGRAM}", *VERBS],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


POSIX_NAMES = re.compile(
    r"\bos\.(getuid|geteuid|getgid|fork\w*|sched_\w+|uname|getloadavg|sysconf|killpg|setsid|nice"
    r"|statvfs|mkfifo|fchmod|getpgid|setpgid|O_NOFOLLOW|O_DIRECTORY|WNOHANG)\b"
    r"|\bsignal\.(SIGKILL|SIGHUP|SIGUSR\d|SIGALRM|SIGCHLD|SIGSTOP|SIGCONT|alarm|setitimer)\b"
)
GUARDED = {  # with what each does where the name is missing
    "paths.py": {"os.getuid"},  # asked for by hasattr: the folder then carries no number
    "training/size.py": {"os.sysconf"},  # AttributeError is expected: memory has no known bound
}


def test_names_that_only_posix_has_are_asked_for_where_they_may_be_missing() -> None:
    found = {
        path.relative_to(paths.PACKAGE).as_posix(): {m.group() for m in POSIX_NAMES.finditer(text)}
        for path in sorted(paths.PACKAGE.rglob("*.py"))
        if POSIX_NAMES.search(text := path.read_text(encoding="utf-8"))
    }
    assert found == GUARDED


@pytest.mark.parametrize("verb", ["train --config run.json", "study run tuning"])
def test_what_trains_says_at_once_which_systems_it_needs(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paths, "sys", SimpleNamespace(platform="win32"))  # which no library sees
    monkeypatch.setattr(sys, "argv", ["moe-leverage", *verb.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "system = 'win32': " in capsys.readouterr().err


def test_the_cache_of_a_user_without_a_name_or_a_number_has_a_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown() -> str:
        raise ImportError("pwd")  # as getpass does on Windows, where no variable has the name

    monkeypatch.setattr(paths.getpass, "getuser", unknown)
    assert paths.user_name() == str(os.getuid())
    monkeypatch.delattr(os, "getuid")
    assert paths.user_name() == "unknown"
