"""Libraries that another library loads at its start and uses rarely, loaded when they are used.

A model of transformers is a subclass of a class whose module imports the compiler of torch and an
optimiser of scipy, for decorators and for losses of object detection: a quarter of what building a
model on the meta device takes. Here a stand-in takes their place while the library is imported.

    stand-in  a module whose names are answered by `Later`
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


@contextlib.contextmanager
def loaded_later(*names: str) -> Iterator[None]:
    """Inside, imports of these modules give stand-ins; outside, what was imported finds the real.

    A decorator of a stand-in leaves what it decorates as it is, so that what a library marks for
    the compiler inside is not marked. A module that is loaded already stays.

    >>> _ = sys.modules.pop("colorsys", None)
    >>> with loaded_later("colorsys"):
    ...     from colorsys import hls_to_rgb
    >>> "colorsys" in sys.modules, hls_to_rgb(0.0, 0.5, 0.0), "colorsys" in sys.modules
    (False, (0.5, 0.5, 0.5), True)
    """
    finder = _Finder(tuple(name for name in names if name not in sys.modules))
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if type(module) is _StandIn]:
            parent, _, own = name.rpartition(".")
            if isinstance(vars(sys.modules.get(parent, sys)).get(own), _StandIn):
                delattr(sys.modules[parent], own)
            del sys.modules[name]


class _StandIn(ModuleType):
    """A module of which nothing is loaded yet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Later(self.__name__, name)


class _Later:
    """A function or class of a module: the real one when it is called outside."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, *given: Any, **named: Any) -> Any:
        if type(sys.modules.get(self.module)) is _StandIn:
            return given[0] if given and callable(given[0]) else self
        return getattr(importlib.import_module(self.module), self.name)(*given, **named)


class _Finder(MetaPathFinder, Loader):
    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        inside = any(f"{name}.".startswith(f"{one}.") for one in self.names)
        return ModuleSpec(name, self, is_package=True) if inside else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: that is the point."""
