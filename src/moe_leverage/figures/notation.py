"""The symbols of the paper (Table 5) as data: prose, column names and axis labels share them.

The list itself is data/notation.toml; here it is read once and turned into axis labels.
"""

from __future__ import annotations

import functools
import tomllib

import pandas as pd

from moe_leverage import paths
from moe_leverage.config import require


@functools.cache
def notation() -> pd.DataFrame:
    """Every symbol with its name in code, TeX, meaning, unit and place in the paper.

    >>> notation().loc["granularity", "tex"]
    'G'
    """
    text = (paths.DATA / "notation.toml").read_text(encoding="utf-8")
    return pd.DataFrame(tomllib.loads(text)["symbol"]).set_index("code", drop=False)


def axis_label(code: str, *, prefix: str = "") -> str:
    """The label of an axis: meaning, symbol and unit; `prefix` goes before the meaning.

    >>> axis_label("compute_flops")
    'Training compute $C$ (FLOPs)'
    """
    table = notation()
    require(code in table.index, "code", code, "is not in data/notation.toml")
    entry = table.loc[code]
    meaning = str(entry["meaning"]).split(",")[0]
    words = f"{prefix} {meaning}".strip()
    unit = f" ({entry['unit']})" if entry["unit"] else ""
    return f"{words[0].upper()}{words[1:]} ${entry['tex']}${unit}"
