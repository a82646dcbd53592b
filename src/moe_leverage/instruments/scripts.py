"""Data as a script that works from a file, where fetching would not: one name below one object."""

from __future__ import annotations

import json
from typing import Any


def assign(name: str, values: Any) -> str:
    """A script that sets `window.moeLeverage.<name>`, whatever was loaded before it.

    >>> assign("answer", {"of": [1, None]})
    '(window.moeLeverage = window.moeLeverage || {}).answer = {"of":[1,null]};\\n'
    """
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return f"(window.moeLeverage = window.moeLeverage || {{}}).{name} = {text};\n"
