"""The symbols of the paper (Table 5) as data: prose, column names and axis labels share them.

The list itself is data/notation.toml; here it is read once and turned into axis labels.
"""

from __future__ import annotations

import functools
import re
import tomllib
from typing import Any

import pandas as pd

from moe_leverage import paths
from moe_leverage.rules import require
from moe_leverage.theory.rounding import short


@functools.cache
def notation() -> pd.DataFrame:
    """Every symbol with its name in code, TeX, meaning, unit and place in the paper.

    >>> notation().loc["granularity", "tex"]
    'G'
    """
    text = (paths.DATA / "notation.toml").read_text(encoding="utf-8")
    return pd.DataFrame(tomllib.loads(text)["symbol"]).set_index("code", drop=False)


@functools.cache
def words() -> list[dict[str, Any]]:
    """The words that a page explains at their first use: their forms and their meaning.

    >>> words()[0]["names"]
    ['isoFLOP', 'isoFLOPs']
    """
    text = (paths.DATA / "notation.toml").read_text(encoding="utf-8")
    return list(tomllib.loads(text)["word"])


def axis_label(code: str, *, prefix: str = "") -> str:
    """The label of an axis: meaning, symbol and unit; `prefix` goes before the meaning.

    >>> axis_label("training_flops")
    'Training compute $C$ (FLOPs)'
    """
    table = notation()
    require(code in table.index, "code", code, "is not in data/notation.toml")
    entry = table.loc[code]
    meaning = str(entry["meaning"]).split(",")[0]
    label = f"{prefix} {meaning}".strip()
    unit = f" ({entry['unit']})" if entry["unit"] else ""
    return f"{label[0].upper()}{label[1:]} ${entry['tex']}${unit}"


def heading(column: object) -> str:
    """A table's column in the words of the reader: the symbol of a known name, or plain words.

    >>> heading("activation_ratio"), heading("training_flops"), heading("num_kv_heads")
    ('$A$', '$C$ (FLOPs)', 'kv heads')
    >>> heading("EL at 1e+18")
    'EL at 1e18'
    """
    name, table = short(str(column)), notation()
    if name in table.index:
        entry = table.loc[name]
        is_count = entry["unit"] in ("", "parameters", "tokens")
        return f"${entry['tex']}$" if is_count else f"${entry['tex']}$ ({entry['unit']})"
    is_code = re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", name) is not None
    return name.removeprefix("num_").replace("_", " ") if is_code else name
