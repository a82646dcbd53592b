"""Tables in Parquet and Excel, read by their libraries once it is known what they unpack to.

Kilobytes of either may hold a billion equal rows, or one cell at the far end of an empty sheet; so
what a file says that it holds is asked before any of it is held.
"""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moe_leverage.rules import require

LARGEST_TABLE = 256 << 20  # bytes that a file may unpack to
CELL = 8  # bytes of a cell in memory, at least
EXTRA = "is not installed here: pip install 'moe-leverage[tables]', or save the table as CSV"


def read_excel(path: Path) -> pd.DataFrame:
    """The first sheet of a workbook; ValueError where it is damaged or too large."""
    return _read(path, "openpyxl", _sheet_bytes, _sheet)


def read_parquet(path: Path) -> pd.DataFrame:
    """The table of a Parquet file; ValueError where it is damaged or too large."""
    return _read(path, "pyarrow", _parquet_bytes, _parquet)


def _read(
    path: Path,
    library: str,
    unpacked: Callable[[Path], int],
    read: Callable[[Path], pd.DataFrame],
) -> pd.DataFrame:
    try:
        size = unpacked(path)
        frame = read(path) if size <= LARGEST_TABLE else pd.DataFrame()
    except ImportError:
        raise ValueError(f"{path.name}: {library} {EXTRA}") from None
    except Exception as error:  # a damaged file: each library has errors of its own
        raise ValueError(f"{path.name}: {' '.join(str(error).split())[:200]}") from None
    size = max(size, _repeated_bytes(frame))
    rule = f"unpacks to {size >> 20:,} MB, more than {LARGEST_TABLE >> 20}; save less of it, as CSV"
    require(size <= LARGEST_TABLE, "RUNS", path.name, rule)
    return frame


def _sheet_bytes(path: Path) -> int:
    """Bytes of the parts of a workbook, or of the box of cells that its first sheet spans."""
    with zipfile.ZipFile(path) as packed:
        size = sum(part.file_size for part in packed.infolist())
    if size > LARGEST_TABLE:
        return size
    rows = columns = texts = 0
    with path.open("rb") as file:  # whose name the library would judge
        book = _library("openpyxl").load_workbook(file, read_only=True)
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # what it says of itself need not be so
        for row in sheet.iter_rows(values_only=True):
            rows, columns = rows + 1, max(columns, len(row))
            texts += sum(len(cell) for cell in row if isinstance(cell, str))
    return max(size, rows * columns * CELL + texts)


def _sheet(path: Path) -> pd.DataFrame:
    return pd.read_excel(path, engine="openpyxl")


def _parquet_bytes(path: Path) -> int:
    """Bytes of the columns without compression, and those of a cell for each of their values."""
    held = _library("pyarrow.parquet").read_metadata(path)
    groups = [held.row_group(number) for number in range(held.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(c.num_values * CELL + c.total_uncompressed_size for c in columns)


def _parquet(path: Path) -> pd.DataFrame:
    """The table, equal texts held once: its file does not say how long they are all together."""
    schema = _library("pyarrow.parquet").read_schema(path)
    types = _library("pyarrow").types
    texts = [field.name for field in schema if types.is_string(field.type)]
    return pd.read_parquet(path, engine="pyarrow", read_dictionary=texts)


def _repeated_bytes(frame: pd.DataFrame) -> int:
    """Characters of the texts that a table holds once, as often as they stand in it."""
    found = 0
    for _, column in frame.select_dtypes("category").items():
        lengths = np.array([len(str(text)) for text in column.cat.categories] + [0])
        found += int(lengths[column.cat.codes].sum())  # -1, a blank: the last
    return found


def _library(name: str) -> Any:
    """A library of the extra, which carries no types; ImportError where it is not installed."""
    return importlib.import_module(name)
