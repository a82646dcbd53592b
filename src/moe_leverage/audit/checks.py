"""The checks that decide a claim from the paper's own numbers (all sections).

A check is a function of plain arguments written in claims.toml and returns a `Finding`. There are
few, each general: an expression over printed cells, a law at a point, a count of a listed model, a
property of a whole table. Formulas live in `accounting` and `laws` only.

    EL   efficiency leverage of the published joint law
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from moe_leverage import paper
from moe_leverage.accounting import (
    TRAINING_PASSES,
    Convention,
    count_forward_flops,
    count_parameters,
)
from moe_leverage.audit.claims import Finding, check
from moe_leverage.audit.listed import GROUPED_TABLES, IN_WORDS, listed, token_multiple
from moe_leverage.config import ModelConfig
from moe_leverage.rules import require
from moe_leverage.theory.laws import PUBLISHED, PowerLaw
from moe_leverage.theory.printed import find_law
from moe_leverage.theory.rounding import half_unit, power_law_corners, rounding_range
from moe_leverage.theory.statements import standing

DENSE, MOE = "Dense-6.1B", "Ling-mini-beta (A0.8B)"
SCORE_HALF_UNIT = 0.05  # Table 4 prints one decimal
LEVERAGE_AXES = ["activation_ratio", "granularity", "training_flops"]
LAW_NAMES = {"training_flops": "compute"}

Cell = Sequence[Any]  # (table, row number or a name that stands in the row, column)


@check
def expression(formula: str, cells: Mapping[str, Cell] | None = None) -> Finding:
    """An arithmetic formula over printed cells; its uncertainty is their rounding, propagated.

    >>> expression("100 * a / b", {"a": [3, 1, "active_params_billions"], "b": [3, 0, "d_model"]})
    ... # doctest: +ELLIPSIS
    Finding(value=0.0207..., uncertainty=0.00012..., detail='')
    """
    strings = {name: _printed_cell(cell) for name, cell in (cells or {}).items()}
    values = {name: float(text) for name, text in strings.items()}
    value = _evaluate(formula, values)
    moved = 0.0
    for name, text in strings.items():
        half = half_unit(text) if not text.lstrip("-").isdigit() else 0.0  # counts are exact
        ends = [_evaluate(formula, {**values, name: values[name] + s * half}) for s in (-1, 1)]
        moved += max(abs(end - value) for end in ends)
    return Finding(value=value, uncertainty=moved)


@check
def average(category: str, column: str) -> Finding:
    """Mean of the benchmarks of one category of Table 4, or of all 34."""
    table = paper.table(4)
    chosen = table[table["row"] == "benchmark"]
    if category != "all":
        chosen = chosen[chosen["category"] == category]
    require(len(chosen) > 0, "category", category, "is not in Table 4")
    detail = f"mean of {len(chosen)} benchmarks"
    return Finding(value=chosen[column].mean(), uncertainty=SCORE_HALF_UNIT, detail=detail)


@check
def average_of_categories(column: str) -> Finding:
    """Mean of the five category averages of Table 4."""
    table = paper.table(4)
    averages = table[table["row"] == "category average"]
    return Finding(value=averages[column].mean(), uncertainty=SCORE_HALF_UNIT)


@check
def lead(metrics: Sequence[str]) -> Finding:
    """Smallest lead of Ling-mini-beta over Dense-6.1B among these benchmarks, in points."""
    table = paper.table(4).set_index("metric")
    leads = table["ling_mini_beta_score"] - table["dense_6_1b_score"]
    detail = "; ".join(f"{name} {leads[name]:+.1f}" for name in metrics)
    value = float(leads[list(metrics)].min())
    return Finding(value=value, uncertainty=2 * SCORE_HALF_UNIT, detail=detail)


@check
def category_lead() -> Finding:
    """Smallest lead of Ling-mini-beta among the five category averages of Table 4, in points."""
    table = paper.table(4)
    averages = table[table["row"] == "category average"].set_index("category")
    leads = averages["ling_mini_beta_score"] - averages["dense_6_1b_score"]
    detail = "; ".join(f"{name} {value:+.1f}" for name, value in leads.items())
    return Finding(value=float(leads.min()), uncertainty=2 * SCORE_HALF_UNIT, detail=detail)


@check
def wins(at_least: float = 0.0) -> Finding:
    """Percent of the 34 benchmarks on which Ling-mini-beta leads by more than `at_least`."""
    table = paper.table(4)
    table = table[table["row"] == "benchmark"]
    ahead = table["ling_mini_beta_score"] - table["dense_6_1b_score"] > at_least
    detail = f"{int(ahead.sum())} of {len(table)} benchmarks"
    return Finding(value=100 * float(ahead.mean()), detail=detail)


@check
def parameters(model: str, count: str, num_dense_layers: int = 1) -> Finding:
    """A parameter count of a model of Table 3, in billions."""
    value = getattr(count_parameters(_table_3_model(model, num_dense_layers)), count) / 1e9
    return Finding(value=value, detail=f"counted: {value:.4f} billion ({IN_WORDS[count]})")


@check
def forward_ratio(
    convention: Convention, sequence_length: int, component: str = "non_embedding"
) -> Finding:
    """FLOPs per token of Dense-6.1B over Ling-mini-beta."""
    dense, moe = (
        count_forward_flops(_table_3_model(name), sequence_length, convention)
        for name in (DENSE, MOE)
    )
    value = getattr(dense, component) / getattr(moe, component)
    said = f"{IN_WORDS[component]}, convention {convention}, length {sequence_length}: {value:.2f}"
    return Finding(value=value, detail=said)


@check
def training_compute(model: str, sequence_length: int, num_tokens: float = 1e12) -> Finding:
    """C of a model of Table 3: three forward passes over its tokens, logits left out."""
    forward = count_forward_flops(_table_3_model(model), sequence_length)
    value = TRAINING_PASSES * forward.non_embedding * num_tokens
    detail = f"with logits {TRAINING_PASSES * forward.total * num_tokens:.2e}"
    return Finding(value=value, detail=detail)


@check
def leverage(activation_ratio: str, granularity: str, compute: str) -> Finding:
    """The published EL at a point; the arguments are arithmetic formulas."""
    point = {"activation_ratio": activation_ratio, "granularity": granularity, "compute": compute}
    numbers = {name: _evaluate(formula, {}) for name, formula in point.items()}
    value = float(PUBLISHED.joint(**numbers))
    reach = rounding_range(lambda law: law(**numbers))
    detail = f"EL({numbers['activation_ratio']:.4f}, {numbers['granularity']:.4g}, "
    detail += f"{numbers['compute']:.3g}) = {value:.3f}, {reach[0]:.2f} to {reach[1]:.2f} over all "
    detail += "coefficients that round to Table 2"
    return Finding(value=value, uncertainty=_reach(value, reach), detail=detail)


@check
def leverage_trend(axis: str, sign: int) -> Finding:
    """Smallest step of EL along one axis of the studied grid, times `sign`: positive if it holds.

    The grid is that of the studies: A from Table 7 (its dense end left out), G from Table 8,
    C from 1e18 to 1e22.
    """
    grid = {
        "activation_ratio": sorted(listed(7)["activation_ratio"].unique()[1:]),
        "granularity": sorted(listed(8)["granularity"].round().unique()),
        "compute": list(np.geomspace(1e18, 1e22, 9)),
    }
    names = list(grid)
    values = PUBLISHED.joint(**dict(zip(names, np.ix_(*grid.values()), strict=True)))
    steps = sign * np.diff(np.log(values), axis=names.index(axis))
    value = float(steps.min())
    detail = f"over {values.size} points the smallest step of log EL is {value:+.3g}"
    return Finding(value=value, detail=detail)


@check
def granularity_optimum(compute: str = "1e20") -> Finding:
    """G of the largest published EL."""
    value = PUBLISHED.joint.optimum_granularity
    reach = rounding_range(lambda law: law.optimum_granularity)
    detail = f"the same at every C, {compute} included"
    return Finding(value=value, uncertainty=_reach(value, reach), detail=detail)


@check
def optimum_drift() -> Finding:
    """Change of the published optimal G between 1e18 and 1e22 FLOPs, percent, on a fine grid."""
    granularity = np.geomspace(2, 32, 2001)
    best = [
        granularity[np.argmax(PUBLISHED.joint(activation_ratio=0.03, granularity=granularity,
                                              compute=compute))]
        for compute in (1e18, 1e22)
    ]  # fmt: skip
    return Finding(value=100 * abs(best[1] / best[0] - 1))


@check
def law_value(law: str, compute: float, unit: float = 1.0) -> Finding:
    """A published power law at one compute, divided by `unit`."""
    value = float(getattr(PUBLISHED, law)(compute)) / unit
    reach = [float(corner(compute)) / unit for corner in power_law_corners(law)]
    detail = f"{law}({compute:.3g}) / {unit:.6g} = {value:.4g}"
    return Finding(value=value, uncertainty=_reach(value, reach), detail=detail)


@check
def law_log2(law: str, compute: float) -> Finding:
    """Binary logarithm of a published power law at one compute."""
    value = math.log2(float(getattr(PUBLISHED, law)(compute)))
    reach = [math.log2(float(corner(compute))) for corner in power_law_corners(law)]
    return Finding(value=value, uncertainty=_reach(value, reach))


@check
def law_crossing(first: str, second: str) -> Finding:
    """The compute at which two published power laws meet."""
    reach = [
        _crossing(one, two) for one in power_law_corners(first) for two in power_law_corners(second)
    ]
    value = _crossing(getattr(PUBLISHED, first), getattr(PUBLISHED, second))
    return Finding(value=value, uncertainty=_reach(value, reach))


@check
def table_slope(column: str, table: int = 7) -> Finding:
    """Least-squares slope of ln(column) on ln(budget) over the six groups of a table."""
    groups = paper.table(table).drop_duplicates("training_flops")
    slope = np.polyfit(np.log(groups["training_flops"]), np.log(groups[column]), 1)[0]
    ends = paper.printed(table).drop_duplicates("training_flops")[column]
    halves = [half_unit(text) / float(text) for text in (ends.iloc[0], ends.iloc[-1])]
    span = math.log(groups["training_flops"].max() / groups["training_flops"].min())
    return Finding(value=float(slope), uncertainty=sum(halves) / span)


@check
def spread(table: int, quantity: str) -> Finding:
    """Largest relative spread of a quantity inside the groups of a table, percent."""
    groups = listed(table).groupby("training_flops")[quantity]
    spreads = 100 * (groups.max() / groups.min() - 1)
    detail = f"largest in the group of {spreads.idxmax():.0e} FLOPs, smallest {spreads.min():.3f} %"
    return Finding(value=float(spreads.max()), detail=detail)


@check
def extreme(tables: Sequence[int], quantity: str, which: str, unit: float = 1.0) -> Finding:
    """Smallest or largest value ("min", "max") of a quantity over whole tables."""
    require(which in ("min", "max"), "which", which, "must be min or max")
    found = {number: getattr(listed(number)[quantity], which)() / unit for number in tables}
    value = float(getattr(np, which)(list(found.values())))
    detail = "; ".join(f"Table {number}: {entry:.4g}" for number, entry in found.items())
    reach = [value]
    if quantity == "published_leverage":
        points = pd.concat([listed(number)[LEVERAGE_AXES] for number in tables])
        ends = rounding_range(lambda law: getattr(law(**_leverage_axes(points)), which)())
        reach = [end / unit for end in ends]
    return Finding(value=value, uncertainty=_reach(value, reach), detail=detail)


@check
def contains(table: int, quantity: str, value: float, relative: float = 0.01) -> Finding:
    """1 if a quantity of a listed table takes this value in some row, else 0."""
    values = listed(table)[quantity]
    present = bool((abs(values - value) <= relative * abs(value)).any())
    levels = sorted({round(float(entry), 4) for entry in values})
    detail = "rows have " + ", ".join(f"{level:g}" for level in levels)
    return Finding(value=float(present), detail=detail)


@check
def ordered(table: int, quantity: str, by: str, sign: int) -> Finding:
    """Smallest step of a quantity, times `sign`, as `by` grows inside each group of a table."""
    steps = [
        (sign * group.sort_values(by)[quantity].pct_change()).min()
        for _, group in listed(table).groupby("training_flops")
    ]
    return Finding(value=float(min(steps)), detail=f"smallest relative step {min(steps):+.3g}")


@check
def smallest_multiple(tables: Sequence[int], passes_in_law: int, passes_in_budget: int) -> Finding:
    """Smallest D / D_opt over tables, under one reading of C = M D (`listed.token_multiple`)."""
    passes = passes_in_law, passes_in_budget
    found = {number: float(token_multiple(listed(number), *passes).min()) for number in tables}
    value = min(found.values())
    reach = [
        float(token_multiple(_at_budgets(number, sign), *passes).min())
        for number in tables
        for sign in (-1, 1)
        if found[number] == value
    ]
    detail = "; ".join(f"Table {number}: {each:.2f}" for number, each in found.items())
    detail += f"; {min(reach):.2f} to {max(reach):.2f} over all budgets that round to the printed"
    return Finding(value=value, uncertainty=_reach(value, reach), detail=detail)


@check
def distinct_models() -> Finding:
    """How many different shapes Tables 7 to 11 list."""
    shapes = [model.identity() for number in GROUPED_TABLES for model in paper.models(number)]
    detail = f"{len(shapes)} rows in all"
    return Finding(value=len(set(shapes)), detail=detail)


@check
def same_by_budget(column: str, tables: Sequence[int]) -> Finding:
    """Largest relative difference of a column between tables at the same budget, percent."""
    values = [paper.table(number).groupby("training_flops")[column].first() for number in tables]
    ratios = [max(entries) / min(entries) - 1 for entries in zip(*values, strict=True)]
    return Finding(value=100 * max(ratios))


@check
def statement(law: str, statement: str) -> Finding:
    """What another paper's law gives for a statement of that paper, under the reading used."""
    printed = find_law(law)
    stands = standing(printed)
    found = {verdict.statement.id: verdict for verdict in stands.verdicts}
    require(statement in found, "statement", statement, f"must be one of {', '.join(found)}")
    one = found[statement]
    says = (stands.reading or printed.readings[0]).says
    detail = f"{printed.title}: {says}" if len(printed.readings) > 1 else printed.title
    return Finding(value=one.value, uncertainty=one.uncertainty, detail=detail)


@check
def width_ratio() -> Finding:
    """Largest d_ffn of Table 10 over the total width of the active experts it stands in for."""
    table = paper.table(10)
    active = (table["num_active_experts"] + table["num_shared_experts"]) * table["d_expert"]
    ratios = table["d_ffn"] / active
    return Finding(value=float(ratios.max()), detail=f"smallest ratio {ratios.min():.3f}")


def _reach(value: float, values: Sequence[float]) -> float:
    """How far values that rounding leaves open lie from the value of the printed digits."""
    return max(abs(each - value) for each in values)


def _crossing(one: PowerLaw, two: PowerLaw) -> float:
    log_c = math.log(two.coefficient / one.coefficient) / (one.exponent - two.exponent)
    return math.exp(log_c)


def _leverage_axes(points: pd.DataFrame) -> dict[str, pd.Series[float]]:
    """The columns of a listed table as the arguments of the joint law."""
    return {LAW_NAMES.get(name, name): points[name] for name in LEVERAGE_AXES}


def _at_budgets(number: int, sign: int) -> pd.DataFrame:
    """A listed table whose budgets lie half of their last printed digit lower or higher."""
    frame = listed(number)
    moved = [
        float(text) + sign * half_unit(text) for text in paper.printed(number)["training_flops"]
    ]
    return frame.assign(training_flops=moved)


def _printed_cell(cell: Cell) -> str:
    number, row, column = cell
    table = paper.printed(number)
    if isinstance(row, str):
        rows = table.index[(table == row).any(axis=1)]
        require(len(rows) == 1, f"table {number} row", row, f"stands in {len(rows)} rows")
        row = rows[0]
    return str(table.loc[row, column])


def _table_3_model(name: str, num_dense_layers: int = 1) -> ModelConfig:
    names = paper.table(3)["model"].tolist()
    require(name in names, "model", name, f"must be one of {', '.join(names)}")
    model = paper.models(3)[names.index(name)]
    return replace(model, num_dense_layers=num_dense_layers) if model.is_moe else model


_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}


def _evaluate(formula: str, names: Mapping[str, float]) -> float:
    """Arithmetic with + - * / ** and names, nothing else."""

    def value(node: ast.AST) -> float:
        match node:
            case ast.Expression(body=body):
                return value(body)
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(operand))
        raise ValueError(f"formula = {formula!r}: only + - * / **, numbers and named cells")

    return value(ast.parse(formula, mode="eval"))
