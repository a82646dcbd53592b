"""One set of versions: the lock, conda's file, the project's requirements, what is installed."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
LINES = [s for s in (ROOT / "requirements.lock").read_text().splitlines() if s[:1] != "#"]
PINS = {canonicalize_name(name): version for name, version in (s.split("==") for s in LINES)}
# builds of PyTorch differ in the GPU libraries that they bring, and only in these
BROUGHT_BY_TORCH = re.compile(r"nvidia-|cuda-|triton$|torch-c-dlpack")


# extras for readers alone: with pyarrow beside it pandas starts slower in every command of ours
UNLOCKED = ("tables",)


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    groups = [PROJECT["dependencies"], *(extras[name] for name in extras if name not in UNLOCKED)]
    found = [Requirement(text) for group in groups for text in group]
    return [requirement for requirement in found if requirement.name != PROJECT["name"]]


def test_whatever_the_package_imports_is_declared() -> None:
    brought = metadata.packages_distributions()
    declared = {canonicalize_name(requirement.name) for requirement in requirements()}
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.split(".")[0] for name in names}
    foreign = imported - set(sys.stdlib_module_names) - {"moe_leverage"}
    missing = [n for n in foreign if not declared & {canonicalize_name(d) for d in brought[n]}]
    assert missing == []


HASHED = {path.stem: path.read_text() for path in (ROOT / "requirements").glob("*.txt")}
CPU = "torch-cpu"  # written only where an index offers PyTorch's build for CPUs


def hashed(name: str) -> dict[str, str]:
    """What pip reads in requirements/<name>.txt: the pins, with markers; each holds a hash."""
    lines = [s for s in HASHED[name].replace("\\\n", " ").splitlines() if s and s[0] != "#"]
    pins = {}
    for line in lines:
        pin, *hashes = line.split("--hash=")
        assert hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", text.strip()) for text in hashes), pin
        requirement = Requirement(pin)
        if requirement.marker is None or requirement.marker.evaluate():
            pins[canonicalize_name(requirement.name)] = str(requirement.specifier)
    return pins


def test_what_make_installs_are_the_versions_of_the_lock_each_file_by_its_hash() -> None:
    assert set(HASHED) - {CPU} == {"all-but-torch", "torch"}
    pins = {name: f"=={version}" for name, version in PINS.items()}
    torch = hashed("torch")
    assert torch["torch"] == pins.pop("torch")
    assert {name: pin for name, pin in hashed("all-but-torch").items() if name in pins} == pins
    assert all(pins.get(name, pin) == pin for name, pin in torch.items() if name != "torch")
    needed = {n for n in torch if not BROUGHT_BY_TORCH.match(n)} - {"torch"}
    assert needed <= set(pins)


@pytest.mark.skipif(CPU not in HASHED, reason="no build for CPUs was offered to make hashes")
def test_the_build_for_cpus_is_the_locked_release() -> None:
    assert hashed(CPU) == {"torch": f"=={PINS['torch']}+cpu"}


def conda_pip() -> list[str]:
    return next(entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict))


@pytest.mark.parametrize("line", LINES)
def test_a_pin_is_a_name_and_a_public_version(line: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)


def test_conda_gets_its_versions_from_the_lock_and_the_package_from_here() -> None:
    assert conda_pip() == ["-r requirements.lock", "-e ."]


def test_conda_brings_a_python_that_the_project_allows() -> None:
    python = next(e for e in CONDA["dependencies"] if str(e).startswith("python="))
    assert f"{python.removeprefix('python=')}.0" in SpecifierSet(PROJECT["requires-python"])


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_the_lock_meets_each_requirement(requirement: Requirement) -> None:
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("name", sorted(PINS))
def test_the_installed_version_is_the_locked_one(name: str) -> None:
    assert Version(metadata.version(name)).public == PINS[name]


@pytest.mark.parametrize("name", sorted(PINS))
def test_the_lock_holds_whatever_its_packages_need(name: str) -> None:
    needed = [Requirement(text) for text in metadata.requires(name) or []]
    here = [r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    names = {canonicalize_name(r.name) for r in here} - {canonicalize_name("pip")}
    missing = {n for n in names if n not in PINS and not BROUGHT_BY_TORCH.match(n)}
    assert not missing


def tracked(*patterns: str) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(listed.stdout.split())


def test_what_checks_the_scripts_is_pinned_and_sees_them_all() -> None:
    package = json.loads((ROOT / "package.json").read_text())
    pins = package["dependencies"] | package["devDependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in pins.values())
    patterns = json.loads((ROOT / "biome.json").read_text())["files"]["includes"]
    seen = {p.relative_to(ROOT).as_posix() for pattern in patterns for p in ROOT.glob(pattern)}
    assert tracked("*.js", "*.mjs") == seen


def test_what_checks_the_c_plus_plus_is_pinned_and_sees_it_all() -> None:
    dev = {
        Requirement(text).name: Requirement(text)
        for text in PROJECT["optional-dependencies"]["dev"]
    }
    assert all(str(dev[name].specifier).startswith("==") for name in ("clang-format", "clang-tidy"))
    makefile = (ROOT / "Makefile").read_text()
    (pattern,) = re.findall(r"^CPP := \$\(wildcard (.+)\)$", makefile, re.MULTILINE)
    assert tracked("*.cpp", "*.h") == {p.relative_to(ROOT).as_posix() for p in ROOT.glob(pattern)}


# notes how it was called, and has no PyTorch for CPUs to install
PYTHON = """#!/bin/sh
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *install*) echo "${*#*install }" >> .venv/asked; case "$*" in *torch-cpu*) exit 1 ;; esac ;;
  *freeze*) echo "$FOUND" ;;
esac
"""
BY_HASH = "--quiet --no-deps --require-hashes --requirement requirements"
ITSELF = "--quiet --no-deps --no-build-isolation --editable ."


def made(checkout: Path, **own: str) -> list[str]:
    """What `make env` has pip install in a checkout of these files."""
    for file in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copyfile(ROOT / file, checkout / file)
    python = checkout / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    own |= {"PATH": os.environ["PATH"], "PYTHON": "./python"}
    subprocess.run(["make", "--silent", "env"], cwd=checkout, env=own, check=True)
    return (checkout / ".venv" / "asked").read_text().splitlines()


def test_make_installs_nothing_that_is_not_held_to_a_hash_but_the_project(tmp_path: Path) -> None:
    files = ("torch-cpu", "torch", "all-but-torch")  # the second where the first is not to be had
    assert made(tmp_path) == [*(f"{BY_HASH}/{name}.txt" for name in files), ITSELF]


def test_make_leaves_a_pytorch_of_the_locked_release_as_it_is(tmp_path: Path) -> None:
    asked = made(tmp_path, FOUND=f"torch=={PINS['torch']}+cu130")
    assert asked == [f"{BY_HASH}/all-but-torch.txt", ITSELF]


@pytest.mark.parametrize("name", ["plain", "two words", "späce and ünïcode", "100% #1, (a)"])
def test_make_keeps_its_environment_in_the_checkout_whatever_its_path(
    tmp_path: Path, name: str
) -> None:
    checkout = tmp_path / name
    checkout.mkdir()
    for file in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copyfile(ROOT / file, checkout / file)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    own = {"PATH": os.environ["PATH"], "PYTHON": str(python)}
    make = ["make", "--silent", "env"]
    done = subprocess.run(make, cwd=checkout, env=own, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "python"])
    stamp = checkout / ".venv" / ".moe-leverage-installed"
    assert stamp.read_text() == f"{checkout.resolve()}\n"
    again = subprocess.run([*make, "-n"], cwd=checkout, env=own, capture_output=True, text=True)
    assert again.stdout == ""  # it is found again, and nothing is to be done


def test_make_refuses_an_environment_that_it_could_not_name(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    own = {"PATH": os.environ["PATH"], "VIRTUAL_ENV": str(tmp_path / "their own" / "venv")}
    done = subprocess.run(
        ["make", "env"], cwd=tmp_path, env=own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "has a space in its path; deactivate it" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["Makefile"]


WORKFLOWS = {p.stem: p.read_text() for p in (ROOT / ".github" / "workflows").glob("*.yml")}


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_a_workflow_runs_pinned_actions_with_the_least_rights(name: str) -> None:
    used = re.findall(r"uses: (\S+)(.*)", WORKFLOWS[name])
    assert used
    for action, version in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", version), action
    workflow = yaml.safe_load(WORKFLOWS[name])
    assert set(workflow["permissions"].values() if workflow["permissions"] else ()) <= {"read"}
    for job in workflow["jobs"].values():
        rights = job.get("permissions", workflow["permissions"])
        commands = [step["run"] for step in job["steps"] if "run" in step]
        if "write" in rights.values():  # beside a token that writes, no package runs
            assert all(command.startswith("gh release ") for command in commands)
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_the_workflow_tests_every_python_that_the_project_promises() -> None:
    job = yaml.safe_load(WORKFLOWS["book"])["jobs"]["check"]
    promised = SpecifierSet(PROJECT["requires-python"])
    minors = [f"3.{minor}" for minor in range(30) if f"3.{minor}.0" in promised]
    assert job["strategy"]["matrix"]["python"] == minors
