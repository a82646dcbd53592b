"""What we trained: the ladders as tables, their gates, their routers' loads, their departures.

Everything is read from the ledger, `analysis.gates` and data/departures.toml at each build. A
ladder is the runs of its ledger that laws or claims may rest on; pilots are no part of it. The
first one is an archive beside the ledger that is read here, to show what was wrong with it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from moe_leverage import ledger
from moe_leverage.analysis.gates import JUDGED, MOST_LOAD, Gate
from moe_leverage.page import theme
from moe_leverage.page.drawing import FAMILIES, power
from moe_leverage.page.links import link_runs
from moe_leverage.page.registry import Drawing, figure
from moe_leverage.paths import DATA
from moe_leverage.studies.catalogue import STUDIES

ARCHIVED = "first ladder"  # whose runs are not in the explorer
LADDERS = {ARCHIVED: ledger.FIRST_LADDER, "second ladder": ledger.DIRECTORY}
SHUT = {  # what a gate of `analysis.gates` that fails says of the runs of its ladder
    "bodies": "its models hardly grow with the budget",
    "tuned": "its best rates and batches lie at the edge of what was tried",
    "tuned far enough": "its largest budgets are far above those at which rates were searched",
    "sized": "its dense models were not tried in several sizes at every budget",
    "at the bottom": "its dense models are not the best size of their budget",
    "control": "a mixture that uses all its experts does not match the loss of its dense twin",
    "balanced": "its routers send most tokens to a few experts",
    "no expert idle": "some experts see no token",
    "covered": "its dense models do not reach the losses of its mixtures",
    "repeated": "too few designs were repeated with other seeds",
    "repeated at the top": "its largest budget has too few seeds",
}
SPANS = {
    "num_layers": "layers", "d_model": "d_model", "num_heads": "heads", "num_experts": "experts",
    "d_expert": "d_expert", "total_params": "parameters", "active_params": "of them active",
    "num_tokens": "tokens", "batch_tokens": "batch", "num_steps": "steps",
    "learning_rate": "rate",
}  # fmt: skip


def ladder(table: pd.DataFrame) -> pd.DataFrame:
    """The finished runs of a ledger that claims may rest on, each once."""
    runs = ledger.finished(table)
    return ledger.once(runs[runs["role"].isin(JUDGED)])


def ladders() -> dict[str, pd.DataFrame]:
    """The runs of both ladders under their names, the older first."""
    return {name: ladder(ledger.table(directory=of)) for name, of in LADDERS.items()}


def designs(runs: pd.DataFrame) -> pd.DataFrame:
    """What was trained at each budget, a row a family: sizes, settings, runs and seeds.

    Runs that are held out lie between the budgets, each at one of its own, and share a row.
    """
    rows: list[dict[str, Any]] = []
    rungs = runs["budget_flops"].where(runs["role"] != "held out")
    for (is_moe, _), group in runs.groupby([runs["is_moe"], rungs], dropna=False):
        kind = FAMILIES["moe" if is_moe else "dense"]
        ends = dict.fromkeys(map(power, (group["budget_flops"].min(), group["budget_flops"].max())))
        row: dict[str, Any] = {"family": kind, "budget (FLOPs)": " to ".join(ends)}
        row |= {name: _span(group[column]) for column, name in SPANS.items()}
        if not is_moe:
            row |= {"experts": "–", "d_expert": "–"}
        row |= {"runs": len(group), "designs": group["config_id"].nunique()}
        rows.append(row)
    return pd.DataFrame(rows)


def gates_table(found: list[Gate], studies: set[str]) -> pd.DataFrame:
    """Every gate of these studies with its figure and its limit, those that fail first."""
    rows = [
        {"gate": gate.name, "study": gate.study, "holds": "yes" if gate.holds else "no",
         "figure": gate.figure, "limit": gate.limit, "what was found": gate.detail}
        for gate in sorted(found, key=lambda gate: gate.holds) if gate.study in studies
    ]  # fmt: skip
    return pd.DataFrame(rows)


def in_a_line(runs: pd.DataFrame, found: list[Gate]) -> str:
    """What a ladder may decide, as one sentence, each gate that fails in plain words."""
    mine = [gate for gate in found if gate.study in set(runs["study"])]
    shut = list(dict.fromkeys(SHUT[gate.name] for gate in mine if not gate.holds))
    ends = f"{power(runs['budget_flops'].min())} to {power(runs['budget_flops'].max())} FLOPs"
    start = f"The ladder of budgets, {len(runs)} runs at {ends},"
    if not shut:
        return f"{start} passes every gate that a measured verdict must pass."
    return (
        f"{start} decides nothing, since {'; '.join(shut)}. An under-tuned dense "
        "baseline makes mixtures look better, so read no leverage off its figures."
    )


def not_yet_trained() -> str:
    """Which studies of the ladder lack runs, as a sentence; empty when none does."""
    mine = [name for name, study in STUDIES.items() if study.role in JUDGED]
    standings = [ledger.standing(name, ledger.DIRECTORY) for name in mine]
    lacking = [standing.words for standing in standings if not standing.is_complete]
    if not lacking:
        return "All its studies are whole."
    return (
        f"Still to be trained on it: {', '.join(lacking)}. Chapters draw what there is of these, "
        "and conclude nothing from it."
    )


def departures(runs: pd.DataFrame) -> pd.DataFrame:
    """The settings in which the ladder's own recipe departs from Appendix B, with the reason.

    Variants change one thing to study it, and are no departure of the recipe.
    """
    runs = runs[runs["role"] != "variant"]
    text = (DATA / "departures.toml").read_text(encoding="utf-8")
    rows = []
    for entry in tomllib.loads(text)["departure"]:
        column = runs[entry["field"]]
        if entry["field"].startswith("routing."):
            column = column[runs["is_moe"]]
        values = sorted({value for value in column.dropna().tolist() if value != entry["paper"]})
        if values:
            rows.append({
                "setting": entry["setting"],
                "the paper": _word(entry["paper"]),
                "our runs": ", ".join(map(_word, values)),
                "in": f"{int(column.isin(values).sum())} of {len(column)}",
                "why": entry["reason"],
            })  # fmt: skip
    return pd.DataFrame(rows, columns=["setting", "the paper", "our runs", "in", "why"])


def recipe_line() -> str:
    """In what the ladder's recipe departs from Appendix B, as the sentence of every page."""
    found = departures(ladder(ledger.table(directory=ledger.DIRECTORY)))
    said = [
        f"{re.sub(r' [(].*[)]$', '', row['setting'])} ({row['our runs']} for {row['the paper']})"
        for row in found.to_dict("records")
    ]
    return (
        f"The ladder keeps the recipe of Appendix B but for {', '.join(said)}; its "
        "rates and batches come from searches of our own, not from Equation 3."
    )


def dense_bests(found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Lowest mean loss of a dense design at each budget, ladder by ladder, where both have one."""
    columns = {}
    for name, runs in found.items():
        dense = runs[~runs["is_moe"]]
        means = dense.groupby(["budget_flops", "config_id"])["loss_nats"].mean()
        columns[name] = means.groupby(level=0).min()
    both = pd.DataFrame(columns).dropna().reset_index()
    both["gap"] = both["first ladder"] - both["second ladder"]
    return both


def loads(found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The busiest expert over the mean, worst layer, of every run of the ladders."""
    parts = []
    for name, runs in found.items():
        routed = runs[runs["is_moe"]]
        busiest = ledger.worst_layer(routed, "load.max_over_mean")
        usual = routed.loc[routed["role"] == "plain", "routing.balance_coefficient"].max()
        part = routed[["run_id", "study", "num_experts", "budget_flops"]].assign(
            is_about_balance=routed["routing.balance_coefficient"] < usual
        )
        parts.append(part.assign(busiest_over_mean=busiest, ladder=name))
    return pd.concat(parts, ignore_index=True).dropna(subset="busiest_over_mean")


@figure(
    "router-loads",
    paper="Section 4.1.2 and Figure 12: what weak balancing does",
    caption="The busiest expert over the mean on held-out text, in the worst layer of every run.",
    data=("ledger/first-ladder",),
    studies=("tuning", "activation", "granularity"),
)
def router_loads(found: pd.DataFrame) -> Drawing:
    """A mark a run, by number of experts and ladder; `found` comes from `loads`."""
    fig, ax = plt.subplots()
    names = [name for name in LADDERS if (found["ladder"] == name).any()]
    inks = {ARCHIVED: theme.colour("accent"), "second ladder": theme.colour("moe")}
    generator = np.random.default_rng(0)
    aside = np.exp(generator.uniform(-0.08, 0.08, len(found)))
    placed = found.assign(x=found["num_experts"] * aside)
    sns.scatterplot(
        placed, x="x", y="busiest_over_mean", hue="ladder", style="ladder", ax=ax,
        hue_order=names, style_order=names, palette=[inks[name] for name in names],
        edgecolor=theme.colour("surface"), s=28,
    )  # fmt: skip
    link_runs(ax, placed[placed["ladder"] != ARCHIVED], "x", "busiest_over_mean")
    ax.axhline(MOST_LOAD, color=theme.colour("muted"), lw=1, ls="--")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xlabel("Experts, $E$")
    ax.set_ylabel("Busiest expert over the mean")
    ax.legend(title=None)
    said = []
    for name in names:
        mine = found[found["ladder"] == name]
        beyond = mine[mine["busiest_over_mean"] > MOST_LOAD]
        weak = int(beyond["is_about_balance"].sum())
        of_them = f" ({weak} of them to study weak balance)" if weak else ""
        said.append(f"{len(beyond)} of {len(mine)} runs of the {name}{of_them}")
    finding = f"Above the limit of {MOST_LOAD:g} (dashed) lie {' and '.join(said)}."
    return Drawing(fig, found, finding)


def _span(values: pd.Series[Any]) -> str:
    """The least and the most of a column, as one word where they are the same."""
    ends = [float(values.min()), float(values.max())]
    return " to ".join(dict.fromkeys(_short(end) for end in ends))


def _short(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    if value >= 1e4:
        return f"{value / 1e3:.3g}k"
    return f"{value:,.0f}" if value >= 1 else f"{value:.2g}"


def _word(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
