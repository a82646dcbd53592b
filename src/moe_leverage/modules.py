"""Finding what a package holds: what registers itself need stand in no list."""

from __future__ import annotations

import importlib
import pkgutil


def import_modules(package: str) -> None:
    """Import every module of a package, so that all of them have registered what they define.

    >>> import_modules("moe_leverage.theory")
    """
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
