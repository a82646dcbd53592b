"""Each source's leverages derived again from a downloaded copy of its table.

A derivation, a function under `@derivation`, takes the tables of a source and gives a row a point:
layout, compute, low and high, the range of EL over what it leaves open, most of all the floor of
the loss. `check` sets the rows beside what `data/evidence` holds.

    C     training compute, FLOPs
    N, D  active parameters and tokens
    L     loss, nats per token
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from moe_leverage.evidence.sources import Source
from moe_leverage.rules import refuse, require, shown
from moe_leverage.theory.forms import SizeAndTokensLoss
from moe_leverage.theory.frontier import dense_compute
from moe_leverage.theory.law import Array

Derivation = TypeVar("Derivation", bound=Callable[..., pd.DataFrame])
DERIVATIONS: dict[str, Callable[..., pd.DataFrame]] = {}

SAME_COMPUTE = 0.25  # by which the logarithm of a derived compute may differ: sizes are labels
ROUNDING = 0.02  # by which two ranges may miss each other
AS_GOOD = 1.1  # times the least error: floors that fit the dense runs equally well
SWEPT = ("h", "numl", "D", "smooth loss")  # columns of dense and of mixed cells
LEAST_CELLS = 5  # that a law of four coefficients and a floor is fitted to
NO_TABLE = (
    pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, EOFError, zlib.error,
    gzip.BadGzipFile,
)  # fmt: skip
FLOORS = tuple(0.1 * i for i in range(25))  # nats, that are tried


def derivation(function: Derivation) -> Derivation:
    """Register a derivation by its name."""
    DERIVATIONS[function.__name__] = function
    return function


def check(source: Source, files: Sequence[Path]) -> pd.DataFrame:
    """Derive a source's leverages from its files and set them beside the stored ones."""
    rule = f"needs {len(source.files)}, in this order: {', '.join(source.files)}"
    require(len(files) == len(source.files), "FILE", [str(f) for f in files], rule)
    tables = [read_table(path) for path in files]
    found = DERIVATIONS[source.derivation](*tables, **source.options)
    named = [path.name for path in files]
    require(not found.empty, "FILE", named, "holds no mixture whose leverage can be derived")
    rows = []
    for point in source.points:
        low, high = _nearest(found[found["layout"] == point.layout], point.compute)
        stored_low, stored_high = point.leverage
        rows.append({
            "layout": point.layout, "compute": point.compute, "stored_low": stored_low,
            "stored_high": stored_high, "derived_low": low, "derived_high": high,
            "agrees": low <= (1 + ROUNDING) * stored_high and high >= (1 - ROUNDING) * stored_low,
        })  # fmt: skip
    return pd.DataFrame(rows)


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file (also gzipped), or the first table of a Markdown file that has a column of losses.

    Raises ValueError that says what is wrong with it.
    """
    require(path.is_file(), "FILE", str(path), "is not a file")
    try:
        return _markdown(path) if path.suffix.lower() == ".md" else pd.read_csv(path)
    except NO_TABLE as error:
        raise ValueError(f"FILE = {shown(str(path))}: is not a table: {error}") from error


@derivation
def rungs(table: pd.DataFrame, floors: Sequence[float]) -> pd.DataFrame:
    """Rungs of a dense and of a mixture ladder: EL read along the dense one.

    Beyond its best loss a mixture has at least the compute of the last dense rung.
    """
    plain = _columns(table, texts=["variant"], sizes=["FLOPs", "Paloma loss"])
    plain = plain.rename(columns={"FLOPs": "compute", "Paloma loss": "loss"})
    dense = plain[plain["variant"] == "dense"].sort_values("compute")
    require(len(dense) >= 2, "variant", "dense", "needs two rungs or more")
    rows = []
    mixtures = plain[plain["variant"] == "moe"]
    for compute, loss in mixtures[["compute", "loss"]].to_numpy(float).tolist():
        ends = [_along(dense["compute"], dense["loss"], loss, floor) for floor in floors]
        low, high = min(ends) / compute, max(ends) / compute
        if loss < dense["loss"].min():
            low, high = dense["compute"].max() / compute, math.inf
        rows.append({"layout": "8 of 384", "compute": compute, "low": low, "high": high})
    return pd.DataFrame(rows)


@derivation
def final_losses(table: pd.DataFrame, num_tokens: float) -> pd.DataFrame:
    """Last losses of Sinkhorn routing with one active expert, against dense models on as much text.

    EL is the size of the dense model of equal loss over that of the mixture's dense part. Of the
    mixtures every second layer is routed; dense models with widened layers are left out.
    """
    optional = ["routing_frequency", "flop_increase", "seed"]
    counts = ["num_experts", "k", "step", *(name for name in optional if name in table.columns)]
    sizes = ["loss_validation", "dense_parameter_count"]
    table = _columns(table, texts=["router_type"], counts=counts, sizes=sizes)
    if "routing_frequency" in table.columns:
        table = table[(table["num_experts"] <= 1) | (table["routing_frequency"] == 0.5)]
    if "flop_increase" in table.columns:
        table = table[~(table["flop_increase"] > 1)]
    keys = ["num_experts", "router_type", "k", "dense_parameter_count"]
    runs = [*keys, *(["seed"] if "seed" in table.columns else [])]
    ended = table.sort_values("step").groupby(runs, dropna=False, as_index=False).last()
    last = ended.groupby(keys, dropna=False, as_index=False)["loss_validation"].mean()
    dense = last[last["num_experts"] <= 1].sort_values("dense_parameter_count")
    by_size = dense.groupby("dense_parameter_count")["loss_validation"].mean()
    is_sinkhorn = last["router_type"].str.lower().str.contains("base|sinkhorn")
    mixtures = last[(last["num_experts"] > 1) & (last["k"] == 1) & is_sinkhorn]
    require(len(by_size) >= 2, "num_experts", 1, "needs two dense sizes or more")
    require(len(mixtures) > 0, "router_type", "S-BASE", "has no run with k = 1")
    rows = []
    columns = ["num_experts", "dense_parameter_count", "loss_validation"]
    for experts, size, loss in mixtures[columns].to_numpy(float).tolist():
        ends = [_along(by_size.index, by_size, loss, floor) for floor in (0.0, 1.5)]
        rows.append({
            "layout": f"{experts:.0f} experts", "compute": 6 * size * num_tokens,
            "low": min(ends) / size, "high": max(ends) / size,
        })  # fmt: skip
    return pd.DataFrame(rows)


@derivation
def swept_cells(moe: pd.DataFrame, dense: pd.DataFrame, sequence_length: float) -> pd.DataFrame:
    """The best of each sweep of rate and batch; EL against the optimum of a law of the dense cells.

    Training FLOPs of a token are 6 N_a + 12 L s h; the range is over floors of the dense law that
    fit its cells equally well.
    """
    moe = _columns(moe, counts=["sed"], sizes=[*SWEPT, "nume", "topk", "moeh"])
    dense = _columns(dense, sizes=[*SWEPT, "N"]).dropna()
    cells = dense.groupby(["h", "numl", "N", "D"], as_index=False)["smooth loss"].min()
    require(len(cells) >= LEAST_CELLS, "dense cells", len(cells), f"need {LEAST_CELLS} or more")
    scores = 12 * cells["numl"] * sequence_length * cells["h"]
    laws = _equally_good(6 * cells["N"] + scores, cells["D"], cells["smooth loss"])
    keys = ["nume", "topk", "moeh", "sed", "h", "numl", "D"]
    best = moe.groupby(keys, as_index=False)["smooth loss"].min()
    width = best["topk"] * best["moeh"] + best["sed"]
    active = best["numl"] * (4 * best["h"] ** 2 + 3 * best["h"] * width)
    per_token = 6 * active + 12 * best["numl"] * sequence_length * best["h"]
    rows = []
    best = best.assign(compute=per_token * best["D"])
    columns = ["topk", "nume", "compute", "smooth loss"]
    for active_experts, experts, compute, loss in best[columns].to_numpy(float).tolist():
        ends = [dense_compute(law, loss) for law in laws]
        rows.append({
            "layout": f"{active_experts:.0f} in {experts:.0f}", "compute": compute,
            "low": min(ends) / compute, "high": max(ends) / compute,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _equally_good(
    flops_per_token: pd.Series[float], tokens: pd.Series[float], losses: pd.Series[float]
) -> list[SizeAndTokensLoss]:
    """Laws L = floor + a / N^alpha + b / D^beta of the cells, N as FLOPs / 6, near the best fit."""
    size, data, loss = (
        np.asarray(column, float) for column in (flops_per_token / 6, tokens, losses)
    )
    fitted = []
    for floor in (floor for floor in FLOORS if floor < loss.min()):
        theta, error = _fit(size, data, loss - floor)
        a, alpha, b, beta = np.exp(theta)
        fitted.append((error, SizeAndTokensLoss(a, alpha, b, beta, floor)))
    least = min(error for error, _ in fitted)
    return [law for error, law in fitted if error <= AS_GOOD * least + 1e-6]


def _fit(size: Array, data: Array, above: Array) -> tuple[Array, float]:
    """Logarithms of a, alpha, b, beta by least squares in ln (L - floor), from several starts."""
    from scipy.optimize import least_squares

    def residuals(theta: Array) -> Array:
        log_a, log_alpha, log_b, log_beta = theta
        params = log_a - np.exp(log_alpha) * np.log(size)
        rest: Array = np.logaddexp(params, log_b - np.exp(log_beta) * np.log(data))
        return rest - np.log(above)

    half = math.log(above.mean() / 2)
    found = []
    for alpha in (0.1, 0.3, 0.6):
        start = [half + alpha * np.log(size).mean(), math.log(alpha)]
        start += [half + alpha * np.log(data).mean(), math.log(alpha)]
        found.append(least_squares(residuals, start, bounds=([-50, -5, -50, -5], [50, 1, 50, 1])))
    best = min(found, key=lambda one: one.cost)
    return best.x, float(np.sqrt(np.mean(best.fun**2)))


def _along(places: ArrayLike, losses: ArrayLike, wanted: float, floor: float) -> float:
    """Where a ladder reaches a loss: straight lines in ln place and ln (loss - floor), extended."""
    x = np.log(np.asarray(places, float))
    with np.errstate(invalid="ignore", divide="ignore"):  # no place below the floor: NaN
        y = np.log(np.asarray(losses, float) - floor)
    at = math.log(wanted - floor) if wanted > floor else -math.inf
    i = int(np.clip(np.searchsorted(-y, -at), 1, len(y) - 1))
    return float(np.exp(x[i - 1] + (at - y[i - 1]) / (y[i] - y[i - 1]) * (x[i] - x[i - 1])))


def _markdown(path: Path) -> pd.DataFrame:
    blocks: list[list[str]] = [[]]
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("|"):
            blocks[-1].append(line.strip().strip("|"))
        elif blocks[-1]:
            blocks.append([])
    tables = [block for block in blocks if len(block) > 2 and "loss" in block[0].lower()]
    require(bool(tables), "FILE", str(path), "holds no table with a column of losses")
    head, _, *rows = tables[0]
    text = "\n".join([head, *rows])
    frame = pd.read_csv(io.StringIO(text), sep="|", skipinitialspace=True)
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    return frame


def _columns(
    table: pd.DataFrame, *, texts: Sequence[str] = (), counts: Sequence[str] = (),
    sizes: Sequence[str] = (),
) -> pd.DataFrame:  # fmt: skip
    """These columns: texts without blanks around them, counts from 0, sizes above 0, or no number.

    The one place where a source's numbers come in; a value that is none is named with its row.
    """
    found: dict[str, pd.Series[Any]] = {}
    for name in (*texts, *counts, *sizes):
        there = sorted(map(str, table.columns))
        require(there.count(name) == 1, "columns", there, f"need {name}, and once")
        if name in texts:
            found[name] = table[name].astype(str).str.strip()
            continue
        is_number = pd.api.types.is_numeric_dtype(table[name])
        column = table[name] if is_number else table[name].astype(str)  # be it of 400 digits
        number = pd.to_numeric(column, errors="coerce").astype(float)
        low = number > 0 if name in sizes else number >= 0
        bad = table[name].notna() & ~(low & np.isfinite(number))
        for row in number.index[bad][:1]:
            rule = f"row {row}: must be a number {'above' if name in sizes else 'from'} 0"
            refuse(name, str(table[name][row]).strip(), rule)
        found[name] = number
    return pd.DataFrame(found)


def _nearest(found: pd.DataFrame, compute: float) -> tuple[float, float]:
    """The derived range at the compute nearest to one, if it is near at all."""
    apart = np.abs(np.log(found["compute"].to_numpy(float) / compute))
    if len(apart) == 0 or apart.min() > SAME_COMPUTE:
        return math.nan, math.nan
    row = found.iloc[int(apart.argmin())]
    return float(row["low"]), float(row["high"])
