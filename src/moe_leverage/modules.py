"""Loading: what a package holds, so that what registers itself need stand in no list; and much."""

from __future__ import annotations

import contextlib
import gc
import importlib
import pkgutil
from collections.abc import Iterator


def import_modules(package: str) -> None:
    """Import every module of a package, so that all of them have registered what they define.

    >>> import_modules("moe_leverage.theory")
    """
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection inside, for loads of many objects that stay: scanning takes a third.

    >>> with collector_paused():
    ...     gc.isenabled()
    False
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
