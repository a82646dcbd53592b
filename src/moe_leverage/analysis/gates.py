"""What must hold before a measured claim is decided: gates, computed from the one table of runs.

A small ladder can say what it likes where its bodies do not grow, its baseline is not tuned, its
routers collapse or its noise is unknown. Each gate is one figure held against one limit; a claim,
a headline or a prediction that rests on a gate which fails is "not decided: gate X".

    bodies     models grow along the ladder (Definition 3.1 scales d_model, layers and heads)
    tuned      the best rate and batch lie inside the grid that was tried (Section 2.2)
    sized      the dense frontier is the bottom of its isoFLOP parabolas (Section 2.3)
    control    a mixture that activates all its experts is as good as its dense twin
    balanced   no expert is far busier than the mean, hardly one is idle, on held-out text
    covered    the dense frontier passes every mixture of a budget at which EL is a number
    repeated   designs are repeated with other seeds, so that noise is known
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from moe_leverage import ledger
from moe_leverage.analysis.dense_frontier import of_frontier
from moe_leverage.analysis.reductions import (
    NEAR_LOSS,
    NEAR_OPTIMAL,
    isoflop_optima,
    near_optimal,
    widened_noise,
    with_law_names,
)

LEAST_GROWTH = 2.0  # of d_model^2 x layers, from the smallest budget to the largest
LEAST_TUNED = 3  # budgets with the best cell inside the grid, in each family
TUNED_REACH = 3.0  # times the largest of those budgets: as far as its rates serve
MOST_STANDARD_ERRORS = 2.0
MOST_LOAD = 4.0  # busiest expert over the mean, on held-out text
MOST_IDLE = 0.02  # of a layer's experts
SEEDS, SEEDS_AT_THE_TOP = 3, 2
REPEATED_BUDGETS = 2
WHOLE = 0.999  # activation ratio from which on all experts are active
BESIDE = ("search", "sizes")  # roles on whose gates every measured claim rests
JUDGED = ("search", "sizes", "plain", "variant", "held out")
LEVERAGE_ALONE = ("covered",)  # of the gates: losses beside each other need no dense frontier
UNJUDGED = "no gate judges these runs"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """One gate of one study: its figure, the limit it is held against, and whether it holds."""

    name: str
    study: str
    holds: bool
    figure: float
    limit: float
    detail: str


Check = Callable[[pd.DataFrame], Iterator[Gate]]
CHECKS: dict[str, Check] = {}


def gate(check: Check) -> Check:
    """Register a check under its function's name; it yields a gate for each study concerned."""
    CHECKS[check.__name__] = check
    return check


def gates(table: pd.DataFrame) -> list[Gate]:
    """Every gate of every study in `ledger.table`, in this module's order.

    Pilots, checks, runs that did not finish and excluded ones are not looked at; a table without
    other runs has no gates.
    """
    if table.empty:
        return []
    runs = ledger.finished(table)
    runs = runs[runs["role"].isin(JUDGED)]
    return [found for check in CHECKS.values() for found in check(runs)] if len(runs) else []


def rests_on(table: pd.DataFrame, studies: Collection[str]) -> set[str]:
    """The studies on whose gates a claim about these studies rests.

    They are the studies' own and the searches and sizes beside them: a baseline that was not tuned
    decides nothing about what it is compared with.
    """
    if table.empty or not (own := set(table["study"]) & set(studies)):
        return set()
    return {*own, *table.loc[table["role"].isin(BESIDE), "study"]}


def failing(
    table: pd.DataFrame, studies: Collection[str], found: list[Gate], *, of_leverage: bool = True
) -> tuple[str, ...]:
    """Names of the gates, of those `found` in the table, that these studies rest on and that fail.

    What is said of losses, not of leverage, does not rest on those of LEVERAGE_ALONE. Where no gate
    judges a study at all, nothing vouches for it either, and that is the name.
    """
    names = rests_on(table, studies)
    judging = [gate for gate in found if gate.study in names]
    aside = () if of_leverage else LEVERAGE_ALONE
    shut = [gate.name for gate in judging if not gate.holds and gate.name not in aside]
    return tuple(dict.fromkeys(shut)) if judging else (UNJUDGED,)


@gate
def bodies(runs: pd.DataFrame) -> Iterator[Gate]:
    """Width or depth grows from the smallest to the largest budget, in both families."""
    for study, mine in _plain(runs):
        body = mine["d_model"].astype(float) ** 2 * mine["num_layers"].astype(float)
        sizes = body.groupby([mine["is_moe"], mine["budget_flops"]]).median()
        grown = {is_moe: float(of.iloc[-1] / of.iloc[0]) for is_moe, of in sizes.groupby(level=0)}
        words = [f"{_family(is_moe)} {times:.2g} times" for is_moe, times in grown.items()]
        detail = f"d_model^2 x layers from the first budget to the last: {', '.join(words)}"
        yield _at_least("bodies", study, min(grown.values()), LEAST_GROWTH, detail)


@gate
def tuned(runs: pd.DataFrame) -> Iterator[Gate]:
    """The best cell of rate x batch lies inside the grid at three budgets, dense and mixture.

    The largest of these budgets is at least a third of the largest of any mixture.
    """
    largest = runs.loc[runs["is_moe"], "budget_flops"].max()
    for study, mine in runs[runs["role"] == "search"].groupby("study"):
        inside, edges = _insides(mine)
        counts = [len(budgets) for budgets in inside.values()]
        detail = "; ".join(edges) or "every best cell is inside its grid"
        yield _at_least("tuned", str(study), min(counts), LEAST_TUNED, detail)
        reach = min(max(budgets, default=0.0) for budgets in inside.values())
        far = float(largest / reach) if reach else np.inf
        detail = f"mixtures reach {largest:.0e} FLOPs, grids with the best cell inside {reach:.0e}"
        yield _at_most("tuned far enough", str(study), far, TUNED_REACH, detail)


@gate
def sized(runs: pd.DataFrame) -> Iterator[Gate]:
    """Every budget of the dense frontier has an isoFLOP parabola, and stands at its bottom."""
    plain = runs[(runs["role"] == "plain") & ~runs["is_moe"]]
    for study, mine in runs[(runs["role"] == "sizes") & ~runs["is_moe"]].groupby("study"):
        optima = isoflop_optima(with_law_names(mine))
        bottoms = optima[optima["reason"] == ""].set_index("compute")
        bare = sorted(set(plain["budget_flops"]) - set(bottoms.index))
        listed = ", ".join(f"{budget:.0e}" for budget in bare)
        detail = f"no bottom at {listed} FLOPs" if bare else "a bottom at every budget used"
        yield _at_most("sized", str(study), len(bare), 0, detail)
        above = _above(plain, bottoms, widened_noise(plain))
        if above:
            budget, errors = max(above.items(), key=lambda item: item[1])
            detail = f"dense runs above the parabola's bottom, most at {budget:.0e} FLOPs"
            yield _at_most("at the bottom", str(study), errors, MOST_STANDARD_ERRORS, detail)


@gate
def control(runs: pd.DataFrame) -> Iterator[Gate]:
    """A mixture with A = 1 and its dense twin differ by no more than two standard errors."""
    for study, mine in _plain(runs):
        whole = mine["is_moe"] & (mine["activation_ratio"].astype(float) >= WHOLE)
        found = []
        for budget in sorted(set(mine["budget_flops"])):
            group = mine[mine["budget_flops"] == budget]
            twins = group[~group["is_moe"]], group[whole[group.index]]
            if min(len(twin) for twin in twins):
                found.append((budget, *_difference(*twins, _noise(group, mine))))
        if found:
            budget, nats, errors = max(found, key=lambda row: abs(row[2]))
            detail = f"mixture less dense twin {nats:+.3f} nats at {budget:.0e} FLOPs"
            yield _at_most("control", study, abs(errors), MOST_STANDARD_ERRORS, detail)


@gate
def balanced(runs: pd.DataFrame) -> Iterator[Gate]:
    """No layer of a run of the ladder's own recipe has a busiest expert or idle ones beyond limits.

    Runs with another balance loss than the plain studies have are there to study balance. Of a
    search only the near-optimal cells count and of sizes those that a parabola may describe: the
    others are there to be worse.
    """
    routed = runs[runs["is_moe"]]
    recipe = routed.loc[routed["role"] == "plain", "routing.balance_coefficient"].unique()
    if len(recipe):
        routed = routed[routed["routing.balance_coefficient"].isin(recipe)]
    for role, tolerance in (("search", NEAR_OPTIMAL), ("sizes", NEAR_LOSS - 1)):
        tried = routed[routed["role"] == role]
        if len(tried):
            best = near_optimal(with_law_names(tried), tolerance)["run_id"]
            routed = routed[(routed["role"] != role) | routed["run_id"].isin(best)]
    for study, mine in routed.groupby("study"):
        busiest = ledger.worst_layer(mine, "load.max_over_mean")
        idle = ledger.worst_layer(mine, "load.idle_experts") / mine["num_experts"]
        for name, figures, limit in (
            ("balanced", busiest, MOST_LOAD),
            ("no expert idle", idle, MOST_IDLE),
        ):
            worst = mine["run_id"].iloc[int(figures.fillna(np.inf).argmax())]
            beyond = int((~(figures <= limit)).sum())
            detail = f"{beyond} of {len(mine)} runs beyond, most run {worst}"
            yield _at_most(name, str(study), float(figures.max(skipna=False)), limit, detail)


@gate
def covered(runs: pd.DataFrame) -> Iterator[Gate]:
    """No mixture is below the lowest mean loss of a dense design where another is above it.

    EL is a number only inside the frontier. A budget whose mixtures all lie below it gives bounds,
    and nothing is lost by that; one that is cut in two would lose its best designs.
    """
    dense = of_frontier(runs)
    mixtures = runs[runs["is_moe"] & runs["role"].isin(("plain", "variant", "held out"))]
    if dense.empty:
        return
    reach = float(dense.groupby("config_id")["loss_nats"].mean().min())
    for study, mine in mixtures.groupby("study"):
        losses = mine.groupby("budget_flops")["loss_nats"].agg(["min", "max"])
        is_beyond = losses["max"] < reach
        lowest = losses.loc[~is_beyond, "min"].min()  # NaN, so that the gate fails, if all are
        detail = f"dense runs reach {reach:.3f} nats, mixtures {lowest:.3f}"
        if is_beyond.any():
            least, most = losses.index[is_beyond].min(), losses.index[is_beyond].max()
            ends = dict.fromkeys([f"{least:.2g}", f"{most:.2g}"])
            detail += f"; EL is only bounded at {' to '.join(ends)} FLOPs"
        yield _at_most("covered", str(study), reach - lowest, 0, detail)


@gate
def repeated(runs: pd.DataFrame) -> Iterator[Gate]:
    """Three seeds a design at two budgets at least, two at the largest."""
    for study, mine in _plain(runs):
        top = mine.loc[mine["is_moe"], "budget_flops"].max()
        reached = mine[~(mine["budget_flops"] > top)]  # dense runs alone may go further
        designs = reached.groupby(["budget_flops", "config_id"])["seed"].nunique()
        least = designs.groupby(level=0).min()
        detail = ", ".join(f"{budget:.0e}: {seeds}" for budget, seeds in least.items())
        enough = int((least >= SEEDS).sum())
        yield _at_least("repeated", study, enough, REPEATED_BUDGETS, f"seeds a design at {detail}")
        detail = f"seeds a design at {least.index[-1]:.0e} FLOPs"
        yield _at_least("repeated at the top", study, int(least.iloc[-1]), SEEDS_AT_THE_TOP, detail)


def _at_most(name: str, study: str, figure: float, limit: float, detail: str) -> Gate:
    holds = bool(figure <= limit)
    return Gate(name=name, study=study, holds=holds, figure=figure, limit=limit, detail=detail)


def _at_least(name: str, study: str, figure: float, limit: float, detail: str) -> Gate:
    holds = bool(figure >= limit)
    return Gate(name=name, study=study, holds=holds, figure=figure, limit=limit, detail=detail)


def _plain(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The studies that walk the ladder with its own recipe."""
    for study, mine in runs[runs["role"] == "plain"].groupby("study"):
        yield str(study), mine


def _insides(grid: pd.DataFrame) -> tuple[dict[bool, list[float]], list[str]]:
    """Budgets of each family whose best cell is inside on both axes; words for the others."""
    inside: dict[bool, list[float]] = {False: [], True: []}
    edges = []
    axes = ["learning_rate", "batch_tokens"]
    for is_moe, budget in sorted(set(zip(grid["is_moe"], grid["budget_flops"], strict=True))):
        cells = grid[(grid["is_moe"] == is_moe) & (grid["budget_flops"] == budget)]
        means = np.log(cells["loss_nats"]).groupby([cells[axis] for axis in axes]).mean()
        best = dict(zip(axes, means.idxmin(), strict=True))
        ends = {axis: (cells[axis].min(), cells[axis].max()) for axis in axes}
        on_edge = [axis for axis in axes if best[axis] in ends[axis]]
        if on_edge:
            words = " and ".join(on_edge)
            edges.append(f"{_family(is_moe)} at {budget:.0e} FLOPs best at the end of {words}")
        else:
            inside[bool(is_moe)].append(budget)
    return inside, edges


def _above(plain: pd.DataFrame, bottoms: pd.DataFrame, sigma: float) -> dict[float, float]:
    """Standard errors by which the best dense design lies above the bottom, by budget."""
    found = {}
    for budget in sorted(set(plain["budget_flops"]) & set(bottoms.index)):
        group = plain[plain["budget_flops"] == budget]
        designs = np.log(group["loss_nats"]).groupby(group["config_id"])
        best = designs.mean().idxmin()
        bottom = bottoms.loc[budget]
        # a parabola that misses its own points knows its bottom no better than that
        of_bottom = max(sigma / np.sqrt(bottom["num_sizes"]), bottom["log_loss_error"])
        error = np.hypot(sigma / np.sqrt(designs.size()[best]), of_bottom)
        gap = designs.mean()[best] - np.log(bottom["loss"])
        found[budget] = float(gap / error) if error > 0 else np.inf
    return found


def _difference(dense: pd.DataFrame, whole: pd.DataFrame, sigma: float) -> tuple[float, float]:
    """Nats by which the whole mixture lies above its dense twin, and that in standard errors."""
    means = [float(np.log(part["loss_nats"]).mean()) for part in (dense, whole)]
    error = sigma * np.sqrt(1 / len(dense) + 1 / len(whole))
    nats = float(np.exp(means[1]) - np.exp(means[0]))
    return nats, float((means[1] - means[0]) / error) if error > 0 else np.inf


def _noise(group: pd.DataFrame, study: pd.DataFrame) -> float:
    """Noise between seeds at one budget; of the whole study where the budget has too few."""
    own = widened_noise(group)
    return own if np.isfinite(own) else widened_noise(study)


def _family(is_moe: object) -> str:
    return "mixture" if is_moe else "dense"
