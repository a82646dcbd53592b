"""Wrong signs put into one module at a time, and those of them that its tests do not see.

python bench/mutation.py [ROOM ...] runs what `bench/mutation.toml` lists: of each module its tests,
and the survivors that stay, each with its reason. It ends with 1 if another survives or one of
those does not. By hand only: a mutant costs as much as the tests of its module.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib
import importlib.machinery
import importlib.util
import io
import os
import signal
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 600  # that a mutant may take: a wrong sign can make a loop endless
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.GtE: ast.LtE,
    ast.And: ast.Or, ast.Or: ast.And, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
ENDS = {"min": "max", "max": "min", "any": "all", "all": "any"}  # functions and methods
LOADED = ("numpy", "pandas", "scipy.optimize", "scipy.stats")  # before any child


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Every place where a sign, a comparison, a word or an end is turned, and the source then.

    >>> [place for place, _ in mutants("x = a - b if c < -d else max(e)")]
    ['c < -d -> c > -d', 'a - b -> a + b', 'max(e) -> min(e)', '-d -> d']
    """
    tree = ast.parse(source)
    for number, node in enumerate(list(ast.walk(tree))):
        if not isinstance(node, ast.BinOp | ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Call):
            continue
        other = copy.deepcopy(tree)
        turned = list(ast.walk(other))[number]
        before = ast.unparse(node)
        if isinstance(turned, ast.UnaryOp) and isinstance(turned.op, ast.USub):
            turned.op = ast.UAdd()
        elif isinstance(turned, ast.Compare) and type(turned.ops[0]) in SWAPPED:
            turned.ops[0] = SWAPPED[type(turned.ops[0])]()  # type: ignore[call-overload]
        elif isinstance(turned, ast.Call) and _called(turned) in ENDS:
            key = "id" if isinstance(turned.func, ast.Name) else "attr"
            setattr(turned.func, key, ENDS[_called(turned)])
        elif isinstance(turned, ast.BinOp | ast.BoolOp) and type(turned.op) in SWAPPED:
            turned.op = SWAPPED[type(turned.op)]()  # type: ignore[assignment]
        else:
            continue
        after = ast.unparse(turned).removeprefix("+")
        yield f"{before} -> {after}", ast.unparse(other)


def _called(node: ast.Call) -> str:
    """The function or method of a call, where it has a name."""
    return str(getattr(node.func, "id", getattr(node.func, "attr", "")))


def survives(module: str, source: str, tests: list[str]) -> bool:
    """Whether the tests pass with this source in the module's place, in a process of their own."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    code = 1
    try:
        signal.alarm(SECONDS)
        code = _tested(module, source, tests)
    finally:
        os._exit(code)


def _tested(module: str, source: str, tests: list[str]) -> int:
    path = ROOT / "src" / f"{module.replace('.', '/')}.py"
    loader = _Mutated(module, str(path))
    loader.source = source
    os.chdir(ROOT)
    finder = _Finder(module, loader)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-n", "0", *tests], [finder]))


class _Mutated(importlib.machinery.SourceFileLoader):
    source = ""

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.source, self.path, "exec")


class _Finder:
    """Finds one module, as its loader has it: a plugin, to stand before the tests' own hooks."""

    def __init__(self, module: str, loader: _Mutated) -> None:
        self.module, self.loader = module, loader

    def pytest_sessionstart(self) -> None:
        """What pytest calls before it collects."""
        if self.module in sys.modules:
            os._exit(0)  # too late: then not even a broken module is seen, and `main` says so
        sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """What Python asks before every import."""
        if name != self.module:
            return None
        return importlib.util.spec_from_file_location(name, self.loader.path, loader=self.loader)


def main(rooms: list[str]) -> int:
    """Run the mutants of these modules, or of all that are listed, and print what survives."""
    listed = tomllib.loads((ROOT / "bench" / "mutation.toml").read_text(encoding="utf-8"))
    faults = 0
    for module, entry in listed.items():
        if rooms and not any(room in module for room in rooms):
            continue
        path = ROOT / "src" / f"{module.replace('.', '/')}.py"
        found = list(mutants(path.read_text(encoding="utf-8")))
        assert not found or not survives(module, "raise SystemError", entry["tests"])
        left = {place for place, source in found if survives(module, source, entry["tests"])}
        stays = set(entry.get("stay", {}))
        print(f"{module}: {len(found)} mutants, {len(left)} survive, {len(stays)} with a reason")
        for place in sorted(left - stays):
            print(f"  survives: {place}")
        for place in sorted(stays - left):
            print(f"  is listed and does not survive: {place}")
        faults += len(left ^ stays)
    return int(faults > 0)


if __name__ == "__main__":
    for name in LOADED:
        importlib.import_module(name)
    sys.exit(main(sys.argv[1:]))
