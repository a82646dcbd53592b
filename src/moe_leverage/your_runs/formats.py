"""The cells of a file of runs, whatever its format: names of columns and numbered rows.

Text is CSV, TSV or semicolons, JSON lines, a JSON list or a Markdown table, compressed by gzip or
not; Parquet and Excel are read where their libraries are installed. The format is told by the
content, never by the file's name. The index of a table is the row as the file numbers it.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pandas as pd

from moe_leverage.rules import LARGEST_FILE, printable, require
from moe_leverage.your_runs.exports import spread
from moe_leverage.your_runs.packed import read_excel, read_parquet

GZIP, ZIP, PARQUET = b"\x1f\x8b", b"PK\x03\x04", b"PAR1"
BOM = b"\xef\xbb\xbf"
HEAD_BYTES = 1 << 16
MOST_ROWS, MOST_COLUMNS = 5_000_000, 10_000  # of a table, which is held in memory
LONGEST_LINE = 16 << 20  # bytes; gzip packs a line of gigabytes into little
MOST_DIGITS = 300  # of a whole number; those of a float end at 308
SEPARATORS = (",", ";", "\t")
MANY_NAMES = 3  # between blanks, beyond which they are no single name
FIRST_ROW = 2  # of data in a table with a header, as editors number it
BLANKS = ("", "NA", "N/A", "n/a", "nan", "NaN", "NAN", "null", "NULL", "None", "-", "–", "—")


def read_cells(path: Path) -> pd.DataFrame:
    """The cells of a file: numbers where a column holds nothing else, text elsewhere, NaN if blank.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "runs.md"
    >>> _ = file.write_text("| C | loss |\\n|---|---|\\n| 1e18 | 3.1 |\\n")
    >>> read_cells(file).to_dict("index")
    {3: {'C': 1e+18, 'loss': 3.1}}
    """
    require(path.is_file(), "RUNS", str(path), "is not a file")
    try:
        return _cells(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path.name}: is damaged or cut off, gzip says: {error}") from None


def _cells(path: Path) -> pd.DataFrame:
    with path.open("rb") as file:
        start = file.read(HEAD_BYTES)
    require(bool(start.strip()), "RUNS", path.name, "is empty")
    if start.startswith(PARQUET):
        return _numbered(read_parquet(path), path)
    if start.startswith(ZIP):
        return _numbered(read_excel(path), path)
    if start.startswith(GZIP):
        with _opened(path) as file:
            start = file.read(HEAD_BYTES)
        require(bool(start.strip()), "RUNS", path.name, "is empty")
    require(b"\0" not in start or _is_wide(start), "RUNS", path.name, "is not a text file")
    head = _decoded(start.removeprefix(BOM).splitlines()[0], path, 1).strip()
    first = start.removeprefix(BOM).lstrip()[:1]
    if first in (b"{", b"["):
        frame = _read_json(path)
    elif head.startswith("|") or re.search(rb"^\s*\|[ :|-]*-[ :|-]*\|\s*$", start, re.MULTILINE):
        frame = _read_markdown(path)
    else:
        frame = _read_delimited(path)
    require(len(frame) > 0, "RUNS", path.name, "has a header and no rows")
    return spread(frame, path.name)


def _is_wide(start: bytes) -> bool:
    """UTF-16, whose zeros are no sign of a binary file; it is refused with advice of its own."""
    return start.startswith((b"\xff\xfe", b"\xfe\xff"))


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        is_packed = file.read(2) == GZIP
    opened: Any = (gzip.open if is_packed else open)(path, "rb")
    return cast(IO[bytes], opened)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Every line that is not blank, with its number; ValueError at the first that is not UTF-8."""
    for number, line in _raw_lines(path):
        text = _decoded(line.removeprefix(BOM) if number == 1 else line, path, number).strip()
        if text:
            yield number, text


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every line with its number; ValueError at one that no table has, or at one too many."""
    with _opened(path) as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            rule = f"is longer than {LONGEST_LINE >> 20} MB"
            require(len(line) <= LONGEST_LINE, f"{path.name}, row {number}", "a line", rule)
            rule = f"has more than {MOST_ROWS:,} rows; thin it out"
            require(number <= MOST_ROWS, "RUNS", path.name, rule)
            yield number, line


def _decoded(line: bytes, path: Path, row: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        rule = f"byte {line[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        if _is_wide(line):
            rule = "the file is UTF-16; save it as UTF-8"
        raise ValueError(f"{path.name}, row {row}: {rule}") from None


def _numbered(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table that a library read, its rows numbered as an editor of sheets does."""
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    frame.index = pd.RangeIndex(FIRST_ROW, FIRST_ROW + len(frame))
    return _tidy(frame, path)


def _read_json(path: Path) -> pd.DataFrame:
    """JSON lines, or a list of objects; what is nested is named with points between."""
    rows: dict[int, dict[str, Any]] = {}
    try:
        with _opened(path) as file:
            is_list = file.read(HEAD_BYTES).removeprefix(BOM).lstrip()[:1] == b"["
        if is_list:
            with _opened(path) as file:
                text = file.read(LARGEST_FILE + 1)
                rule = f"is a JSON list of more than {LARGEST_FILE >> 20} MB; save it as CSV"
                require(len(text) <= LARGEST_FILE, "RUNS", path.name, rule)
                records = json.loads(text.removeprefix(BOM), parse_int=_whole)
            rows = dict(enumerate(records, start=1))
        else:
            size, rule = 0, f"has more than {LARGEST_FILE >> 20} MB of JSON; save it as CSV"
            for number, line in _lines(path):
                size += len(line)
                require(size <= LARGEST_FILE, "RUNS", path.name, rule)
                rows[number] = json.loads(line, parse_int=_whole)
    except json.JSONDecodeError as error:
        place = f"row {len(rows) + 1}: " if rows else ""
        raise ValueError(f"{path.name}, {place}is not JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{path.name}: is nested too deep for a table") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path.name}: is not UTF-8; save the file as UTF-8") from None
    for number, record in rows.items():
        shown = type(record).__name__
        require(isinstance(record, dict), f"{path.name}, row {number}", shown, "must be an object")
    only = next(iter(rows.values())) if len(rows) == 1 else {}
    if only and all(isinstance(column, dict) for column in only.values()):
        frame = pd.DataFrame(only)  # by column, as pandas writes a table by default
        if all(map(np.isscalar, frame.to_numpy().ravel())):
            frame.index = pd.RangeIndex(1, 1 + len(frame))
            return _tidy(frame, path)
    try:
        frame = pd.json_normalize(list(rows.values()))
    except RecursionError:
        raise ValueError(f"{path.name}: is nested too deep for a table") from None
    frame.index = pd.Index(list(rows))
    return _tidy(frame, path)


def _whole(digits: str) -> int | float:
    """A whole number of JSON; infinite where no machine holds it, which its column then refuses."""
    return int(digits) if len(digits) <= MOST_DIGITS else float(digits)


def _read_markdown(path: Path) -> pd.DataFrame:
    """A table between vertical bars, as pasted from a README, text around it and all."""
    barred = [(row, text) for row, text in _lines(path) if text.startswith("|")]
    is_one = all(row - barred[0][0] == place for place, (row, _) in enumerate(barred))
    require(is_one, "RUNS", path.name, "has several tables; keep the one with the runs")
    lines = [(row, re.split(r"(?<!\\)\|", text.strip("|"))) for row, text in barred]
    headers = [_plain_cell(cell) for cell in lines[0][1]]
    _require_names(headers, path)
    rows = {}
    for row, cells in lines[1:]:
        if all(re.fullmatch(r"\s*:?-+:?\s*", cell) for cell in cells):
            continue
        _require_width(path, row, len(cells), len(headers))
        rows[row] = [_plain_cell(cell) for cell in cells]
    frame = pd.DataFrame(list(rows.values()), index=list(rows), columns=headers)
    return _tidy(frame, path)


def _plain_cell(cell: str) -> str:
    return cell.replace("\\|", "|").strip().strip("*`").strip()


def _read_delimited(path: Path) -> pd.DataFrame:
    """Cells between commas, semicolons or tabs, quoted or not, blanks around them dropped."""
    first, head, separator = _header(path)
    headers = [
        cell.strip()
        for cell in next(csv.reader([head], delimiter=separator, skipinitialspace=True))
    ]
    _require_names(headers, path)
    _check_widths(path, len(headers), separator, first)
    try:
        with _opened(path) as file:
            frame = pd.read_csv(
                file, sep=separator, names=headers, header=None, skiprows=first, index_col=False,
                encoding="utf-8-sig", skip_blank_lines=False, skipinitialspace=True,
                low_memory=False, keep_default_na=False, na_values=list(BLANKS),
            )  # fmt: skip
    except UnicodeDecodeError:
        for _ in _lines(path):  # says at which row
            pass
        raise
    except pd.errors.EmptyDataError:
        frame = pd.DataFrame(columns=headers)
    except pd.errors.ParserError as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise ValueError(f"{path.name}: {reason}") from None
    frame.index = pd.RangeIndex(first + 1, first + 1 + len(frame))
    return _tidy(frame, path)


def _header(path: Path) -> tuple[int, str, str]:
    """The number of the line with the names, what it says and what separates its cells.

    Lines of comments may stand before it, each behind a # and with fewer cells than the names.
    """
    comment: tuple[int, str] = (0, "")
    for number, line in _lines(path):
        if line.startswith("#"):
            comment = number, line
            continue
        separator = max(SEPARATORS, key=line.count)
        if comment[1].count(separator) >= max(line.count(separator), 1):
            return *comment, separator
        rule = "no comma, semicolon or tab separates its names; save the table as CSV"
        is_split = separator in line or len(line.split()) <= MANY_NAMES
        require(is_split, f"{path.name}, row {number}", line, rule)
        return number, line, separator
    return *comment, max(SEPARATORS, key=comment[1].count)


def _require_few(columns: int, path: Path) -> None:
    require(columns <= MOST_COLUMNS, "RUNS", path.name, f"has more than {MOST_COLUMNS:,} columns")


def _require_names(headers: list[str], path: Path) -> None:
    _require_few(len(headers), path)
    twice = sorted(name for name, times in Counter(headers).items() if times > 1 and name)
    require(not twice, f"{path.name}, row 1", twice, "each column needs a name of its own")
    for place, name in enumerate(headers):
        headers[place] = name or f"column {place + 1}"  # pandas writes its index without a name


def _check_widths(path: Path, num_columns: int, separator: str, first: int) -> None:
    """A row with more or fewer cells than the header is an error; pandas judges quoted rows."""
    mark = separator.encode()
    for row, line in _raw_lines(path):
        if row < first:
            continue
        cells = line.rstrip(b"\r\n").removesuffix(mark)  # some writers end each row with one
        if {line.count(mark), cells.count(mark)}.isdisjoint({num_columns - 1}) and (
            b'"' not in line and line.strip()
        ):
            _require_width(path, row, line.count(mark) + 1, num_columns)


def _require_width(path: Path, row: int, cells: int, num_columns: int) -> None:
    rule = f"the header has {num_columns}"
    require(cells == num_columns, f"{path.name}, row {row}", f"{cells} cells", rule)


def _tidy(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Text without blanks around it; a blank is NaN, and a column of numbers is one."""
    require(len(frame.columns) > 0, "RUNS", path.name, "has no columns")
    _require_few(len(frame.columns), path)
    done: dict[str, pd.Series] = {}
    for name in frame.columns:
        column = frame[name]
        if pd.api.types.is_bool_dtype(column):
            column = column.map({True: "true", False: "false"})
        if not pd.api.types.is_numeric_dtype(column):
            text = column.astype(object).where(column.notna(), np.nan)
            text = text.map(lambda cell: printable(cell.strip()) if isinstance(cell, str) else cell)
            text = text.where(~text.isin(BLANKS), np.nan)
            column = numeric_if_all(text)
        done[printable(str(name))] = column
    return pd.DataFrame(done, index=frame.index)


def numeric_if_all(text: pd.Series) -> pd.Series:
    """A column as numbers where it holds nothing else, as text where it does."""
    numbers = pd.to_numeric(text, errors="coerce")
    whole = bool((numbers.notna() == text.notna()).all())
    if whole:
        return numbers.astype(float)
    return text.where(text.isna(), text.astype(str))
