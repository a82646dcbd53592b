"""Figures and tables of chapter 14: one model under every printed law.

A    activation ratio
G    granularity
C    training compute, FLOPs
EL   efficiency leverage
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from moe_leverage.design import huggingface
from moe_leverage.design.designer import Explanation
from moe_leverage.design.every_law import (
    NOT_RETURNED,
    OWN,
    OWN_TITLE,
    Asked,
    LawAnswer,
    answer,
    answers,
)  # fmt: skip
from moe_leverage.page import theme
from moe_leverage.page.drawing import log_axes, note, percent, plain_ticks, power
from moe_leverage.page.notation import axis_label
from moe_leverage.page.registry import Drawing, figure
from moe_leverage.theory.forms import OWN_OPTIMUM, Layout
from moe_leverage.theory.printed import PrintedLaw, printed_laws
from moe_leverage.theory.statements import standing

LAYOUTS = {  # of the gallery, coarse to fine, and the one that a law was fitted at
    "Mixtral-8x7B": "Mixtral-8x7B",
    "OLMoE-1B-7B": "OLMoE-1B-7B",
    "Ling-mini-beta": "Ling-mini-beta",
    "1 in 64, G = 8": "",
}
KRAJEWSKI = Layout(activation_ratio=1 / 64, granularity=8.0)
POINTS = pd.DataFrame(  # leverages that the papers print, not from a formula of theirs
    [
        ("Ling-mini-beta", "tian-2025", 1e22, 7.0, "Section 5"),
        ("1 in 64, G = 8", "krajewski-2024", 1e20, 20.0, "Figure 1"),
        ("1 in 64, G = 8", "krajewski-2024", 1e25, 40.0, "Figure 1"),
    ],
    columns=["layout", "law", "compute", "efficiency_leverage", "locator"],
)
COMPUTES = np.geomspace(1e18, 1e25, 57)
LIMITS = (0.5, 60.0)  # of EL in the figure; a law that leaves them is cut off
COLOURS = {"tian": "published", "abnar": "accent", "krajewski": "moe", "ludziejewski": "ink",
           "clark": "dense"}  # fmt: skip
TREND = Layout(activation_ratio=1 / 32, granularity=4.0)  # from which one axis is moved at a time
TREND_COMPUTE = 1e20


def answering() -> tuple[PrintedLaw, ...]:
    """The laws that have a form and return their own statements."""
    return tuple(law for law in printed_laws() if law.form and standing(law).reading)


def laws_table() -> pd.DataFrame:
    """One row a law: what it knows, how it is read, and how it comes out of its statements."""
    rows = []
    for law in printed_laws():
        stands = standing(law)
        returned = sum(verdict.label != "discrepant" for verdict in stands.verdicts)
        reading = stands.reading or law.readings[0]
        silent = law.missing or ("" if stands.reading else NOT_RETURNED)
        rows.append({
            "law": law.title,
            "arXiv": law.arxiv,
            "variables": _variables(law) if law.form else "",
            "read so, or silent since": silent or (reading.says if len(law.readings) > 1 else ""),
            "range of its runs": law.domain_locator if law.domain else "",
            "statements returned": f"{returned} of {len(law.statements)}" if law.statements else "",
        })  # fmt: skip
    return pd.DataFrame(rows)


def remarks() -> str:
    """What is to be known of each law before it is asked, as a list."""
    return "\n".join(f"- *{law.title}.* {law.note}" for law in printed_laws())


def readings_table() -> pd.DataFrame:
    """How many statements of its paper each law returns, reading by reading."""
    return pd.DataFrame(
        [
            {
                "law": law.title,
                "reading": reading.says,
                "statements": len(verdicts),
                "returned": sum(verdict.label != "discrepant" for verdict in verdicts),
                "used": "yes" if standing(law).reading is reading else "no",
            }
            for law in printed_laws()
            if len(law.readings) > 1
            for reading, verdicts in standing(law).by_reading
        ]
    )


def gallery_under_every_law(models: Sequence[Explanation]) -> pd.DataFrame:
    """EL of each model by each law at the model's own compute; an asterisk: extrapolated."""
    rows = []
    for model in models:
        said = {answer.law: answer for answer in answers(model)}
        row = {"model": model.name, "activation_ratio": model.activation_ratio,
               "granularity": model.granularity, "training_flops": model.compute}  # fmt: skip
        row |= {law.title: written(said[law.id]) for law in answering()}
        rows.append(row | {OWN_TITLE: written(said[OWN])})
    return pd.DataFrame(rows)


def spread(layouts: dict[str, Layout], computes: Sequence[float]) -> pd.DataFrame:
    """Least, median and largest EL over the laws for each layout and compute."""
    rows = []
    for name, layout in layouts.items():
        for compute in computes:
            said = [_said(law, layout, compute) for law in answering()]
            values = np.array([answer.value for answer in said if answer.value is not None])
            optimal = [
                answer.value for answer in said if answer.value and answer.basis == OWN_OPTIMUM
            ]
            least, most = values.min(), values.max()
            rows.append({
                "layout": name, "activation_ratio": layout.activation_ratio,
                "training_flops": compute, "least": least, "median": float(np.median(values)),
                "most": most, "most over least": most / least,
                "at own optimum": max(optimal) / min(optimal),
                "inside its runs": sum(answer.in_domain for answer in said),
            })  # fmt: skip
    return pd.DataFrame(rows)


def apart_inside(table: pd.DataFrame) -> float:
    """The largest ratio of two laws at a point that lies within the runs of both.

    `table` is that of `curves`.
    """
    inside = table[table["in_domain"]].groupby(["layout", "training_flops"])["efficiency_leverage"]
    return float((inside.max() / inside.min()).max())


def trends() -> pd.DataFrame:
    """What moves EL in each law: factors for half the activation, twice the fineness, more compute.

    A = 1/32, G = 4 and C = 1e20 stand in the middle; the last column is the A, among 1/2 to 1/1024,
    from which the law holds a sparser model no better.
    """
    rows = []
    for law in answering():
        factors = {
            "A halved": _factor(law, {"activation_ratio": TREND.activation_ratio / 2}),
            "G doubled": _factor(law, {"granularity": 8.0}),
            "G from 16 to 32": _factor(law, {"granularity": 32.0}, {"granularity": 16.0}),
            "C times 100": _factor(law, {"compute": 100 * TREND_COMPUTE}),
        }
        rows.append({"law": law.title} | factors | {"best A": _best_ratio(law)})
    return pd.DataFrame(rows)


def worth_of_sparser(models: Sequence[Explanation]) -> pd.DataFrame:
    """EL at half the activation ratio of each model over its own EL, by each law; a column a model.

    Above one the law would have the model sparser. Laws that do not answer are left out.
    """
    rows = []
    for law in answering():
        worth = {}
        for asked in models:
            axes = {"granularity": asked.granularity, "compute": asked.compute}
            whole, half = ({"activation_ratio": asked.activation_ratio / by} for by in (1, 2))
            worth[asked.name] = _factor(law, half | axes, whole | axes)
        rows.append({"law": law.title} | worth)
    return pd.DataFrame(rows).dropna().reset_index(drop=True)


def sparser_in_words(worth: pd.DataFrame) -> str:
    """What the laws of `worth_of_sparser` say between its first model and its last.

    >>> told = pd.DataFrame({"law": ["one", "two"], "7B": [1.1, 1.2], "1T": [1.3, 1.1]})
    >>> sparser_in_words(told)
    'Of 2 laws 2 would have 7B sparser, 2 1T; in 1 the gain grows in between, in 1 it shrinks.'
    """
    first, last = worth.columns[1], worth.columns[-1]
    gains = {name: int((worth[name] > 1).sum()) for name in (first, last)}
    grows = int((worth[last] > worth[first]).sum())
    return (
        f"Of {len(worth)} laws {gains[first]} would have {first} sparser, {gains[last]} {last}; "
        f"in {grows} the gain grows in between, in {len(worth) - grows} it shrinks."
    )


def layouts() -> dict[str, Layout]:
    """The layouts that the figure has a panel for."""
    found = {}
    for panel, name in LAYOUTS.items():
        model = huggingface.load(name).model if name else None
        found[panel] = (
            Layout(activation_ratio=model.activation_ratio, granularity=model.granularity)
            if model
            else KRAJEWSKI
        )
    return found


def curves(
    panels: dict[str, Layout], computes: np.ndarray[tuple[int], np.dtype[np.float64]] = COMPUTES
) -> pd.DataFrame:
    """EL over compute of each layout by each law, and whether it lies within the law's runs."""
    return pd.DataFrame(
        [
            {
                "layout": name,
                "law": law.id,
                "title": law.title,
                "training_flops": compute,
                "efficiency_leverage": said.value,
                "in_domain": said.in_domain,
            }
            for name, layout in panels.items()
            for law in answering()
            for compute in map(float, computes)
            if (said := _said(law, layout, compute)).value is not None
        ]
    )


@figure(
    "leverage-by-law",
    paper="Beyond the paper: the laws of five groups on the same layouts",
    data=("laws", "paper/coefficients.toml", "models"),
    caption="The leverage of four layouts over training compute by every printed law that returns "
    "its own statements. Solid: within the runs behind the law. Dotted: extrapolated, in compute "
    "or because the law never saw such experts. Rings: leverages that a paper prints. Laws of "
    "Clark et al. hold the tokens fixed, at a size of C / (6 D).",
)
def leverage_by_law(table: pd.DataFrame) -> Drawing:
    """One panel a layout, one curve a law; `table` is that of `curves`."""
    names = list(dict.fromkeys(table["layout"]))
    rows = (len(names) + 1) // 2
    fig, grid = plt.subplots(
        rows, 2, figsize=(theme.WIDTH_INCHES * 1.25, 3.1 * rows), sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    for ax, name in zip(grid.flat, names, strict=False):
        _panel(ax, table[table["layout"] == name], name)
    for ax in list(grid.flat)[len(names) :]:
        ax.set_visible(False)
    for ax in grid[:, 0]:
        ax.set_ylabel(axis_label("efficiency_leverage"))
    for ax in grid[-1]:
        ax.set_xlabel(axis_label("training_flops"))
    handles = {title: line for ax in grid.flat for title, line in _lines(ax).items()}
    grid[0, 0].legend(handles.values(), handles.keys(), loc="upper left", fontsize=8)
    inside = table[table["in_domain"]]
    note(fig, f"{len(inside)} of {len(table)} points lie within the runs behind their law.")
    return Drawing(fig, table, _finding(table))


def written(said: LawAnswer) -> str:
    """EL with an asterisk where it is an extrapolation; a dash where there is none.

    >>> written(LawAnswer(law="x", title="X", value=3.14159, in_domain=False, reason="far"))
    '3.14*'
    """
    if said.value is None:
        return "–"
    return f"{said.value:.3g}{'' if said.in_domain else '*'}"


def _panel(ax: Axes, table: pd.DataFrame, name: str) -> None:
    for law, curve in table.groupby("law", sort=False):
        ink = law_colour(str(law))
        compute, value = curve["training_flops"], curve["efficiency_leverage"]
        label = str(curve["title"].iloc[0]).split(",")[0]
        ax.plot(compute, value, ":", color=ink, lw=1.4, label=label)
        ax.plot(compute, value.where(curve["in_domain"]), "-", color=ink, lw=2.2)
    marked = POINTS[POINTS["layout"] == name]
    for law, points in marked.groupby("law"):
        ax.plot(
            points["compute"], points["efficiency_leverage"], "o", mfc="none", mew=1.8, ms=8,
            color=law_colour(str(law)), label="printed",
        )  # fmt: skip
    log_axes(ax, "training_flops", "efficiency_leverage")
    ax.set(xlabel="", ylabel="", ylim=LIMITS, title=name)
    ax.axhline(1, color=theme.colour("muted"), lw=0.8)
    plain_ticks(ax.yaxis, (0.5, 1, 2, 5, 10, 20, 50))


def law_colour(law: str) -> str:
    """The colour of a law, that of its group; a law that is new here is drawn muted."""
    return theme.colour(COLOURS.get(law.split("-")[0], "muted"))


def _lines(ax: Axes) -> dict[str, object]:
    handles, labels = ax.get_legend_handles_labels()
    return {label: handle for handle, label in zip(handles, labels, strict=True)}


def _finding(table: pd.DataFrame) -> str:
    """The spread over laws of the sparsest layout, at 1e20 and at 1e22 FLOPs."""
    name = table["layout"].iloc[-1]
    shown = table[table["layout"] == name]
    parts = []
    for wanted in (1e20, 1e22):
        places = shown["training_flops"].unique()
        compute = places[np.argmin(np.abs(np.log(places / wanted)))]
        values = shown[shown["training_flops"] == compute]["efficiency_leverage"]
        parts.append(f"{values.min():.1f} to {values.max():.1f} at {power(compute)} FLOPs")
    laws = shown["law"].nunique()
    return f"For {name}, {laws} laws give leverages of {parts[0]} and of {parts[1]}."


def _said(law: PrintedLaw, layout: Layout, compute: float) -> LawAnswer:
    return answer(law, Asked(layout=layout, compute=compute))


def _factor(
    law: PrintedLaw, moved: dict[str, float], start: dict[str, float] | None = None
) -> float:
    """EL at a moved point over EL at the middle, or at another start; NaN where one is missing."""
    values = []
    for changes in (start or {}, moved):
        axes = {"activation_ratio": TREND.activation_ratio, "granularity": TREND.granularity or 4.0,
                "compute": TREND_COMPUTE} | changes  # fmt: skip
        compute = axes.pop("compute")
        values.append(_said(law, Layout(**axes), compute).value)
    first, second = values
    return second / first if first is not None and second is not None else float("nan")


def _best_ratio(law: PrintedLaw) -> str:
    """A of the largest EL among powers of two, at the middle's G and C."""
    ratios = [2.0**-i for i in range(1, 11)]
    said = [_said(law, Layout(activation_ratio=a, granularity=4.0), TREND_COMPUTE).value
            for a in ratios]  # fmt: skip
    best = int(np.argmax([-np.inf if value is None else value for value in said]))
    end = ", the sparsest asked" if best == len(ratios) - 1 else ""
    return f"{percent(ratios[best])}{end}"


def _variables(law: PrintedLaw) -> str:
    mixture = law.sides(law.readings[0]).mixture
    if mixture.gives_leverage:
        return "EL of A, G, C"
    parts = ["N", "A", *(["G"] if mixture.needs_granularity else []),
             *(["D"] if mixture.knows_tokens else [])]  # fmt: skip
    return f"L of {', '.join(parts)}" + ("" if mixture.knows_tokens else "; D fixed")
