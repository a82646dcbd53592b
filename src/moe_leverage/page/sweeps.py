"""Our losses along one axis at each budget: the counterpart of Figures 5a, 6a, 7a, 12 and 13.

The paper draws such curves and prints none of their values, so the measured side stands alone,
with what the text says of the best place as a band.

    L    held-out loss, nats per token, averaged over seeds
    x    what the study varies
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from moe_leverage.page import theme
from moe_leverage.page.drawing import draw_points, linked_means, note, power
from moe_leverage.page.notation import axis_label
from moe_leverage.page.registry import Drawing

PANEL_INCHES = 2.7
MOST_COLUMNS = 3
MIN_PANEL = 2  # places on the axis that make a panel
MIN_PLACES = 4  # on the axis, for a parabola: three coefficients and one to spare


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """What is varied, how it is written, and where the paper puts the best."""

    name: str
    label: str
    is_log: bool = True
    symbol: str = ""  # before a value in a sentence
    unit: str = ""  # after it
    scale: float = 1.0  # of a value in a sentence
    band: tuple[float, float] | None = None  # where the text puts the best
    ticks: Sequence[float] = field(default_factory=tuple)

    def words(self, value: float) -> str:
        """A value as a sentence writes it."""
        name = f"{self.symbol} = " if self.symbol else ""
        unit = self.unit.removesuffix("s") if self.scale * value == 1 else self.unit
        return f"{name}{self.scale * value:.3g}{unit}"


def draw(
    runs: pd.DataFrame, axis: Axis, series: Mapping[str, str], *, fits: Sequence[str] = ()
) -> Drawing:
    """One panel a budget; `runs` are means of `linked_means`, `series` maps a label to a colour.

    Through each series of `fits` with enough places a parabola is drawn.
    """
    places = runs.groupby("budget_flops")[axis.name].nunique()
    budgets = sorted(places.index[places >= MIN_PANEL]) or sorted(places.index)
    columns = len(budgets) if len(budgets) <= MOST_COLUMNS else 2  # three leave no panel empty
    rows = -(-len(budgets) // columns)
    fig, grid = plt.subplots(
        rows, columns, squeeze=False, sharex=True,
        figsize=(theme.WIDTH_INCHES * (1.25 if len(budgets) > 1 else 1), PANEL_INCHES * rows + 0.4),
    )  # fmt: skip
    panels = list(grid.ravel())
    for ax, budget in zip(panels, budgets, strict=False):
        _panel(ax, runs[runs["budget_flops"] == budget], axis, series, fits)
        ax.set_title(f"{power(budget)} FLOPs")
    for ax in panels[len(budgets) :]:
        ax.set_visible(False)
    for column in range(grid.shape[1]):
        shown = [ax for ax in grid[:, column] if ax.get_visible()]
        shown[-1].set_xlabel(axis.label)
        shown[-1].tick_params(labelbottom=True)
    if len(series) > 1 or axis.band:
        above = (0.0, 1.1)  # the title too: inside, it would hide intervals
        keys: dict[str, Any] = {}  # a series may be missing at the first budget
        for panel in panels:
            handles, labels = panel.get_legend_handles_labels()
            keys |= {label: handle for handle, label in zip(handles, labels, strict=True)}
        panels[0].legend(
            list(keys.values()), list(keys), fontsize=8.5, loc="lower left", bbox_to_anchor=above,
            ncols=2,  # three are wider than a panel, and would push the next one away
        )  # fmt: skip
    note(fig, "Ours alone: the paper prints none of its losses.")
    return Drawing(fig, runs, finding(runs, axis, series))


def finding(runs: pd.DataFrame, axis: Axis, series: Mapping[str, str]) -> str:
    """Where the loss is lowest at each budget, beside what the paper says."""
    sentences = []
    for name in series:
        found = best(runs[runs["series"] == name], axis.name)
        if found.empty:
            continue
        places = [axis.words(value) for value in found[axis.name]]
        budgets = [power(value) for value in found["budget_flops"]]
        of = f" of {name}" if len(series) > 1 else ""
        if len(set(places)) == 1 < len(found):
            places, budgets = places[:1], [f"all {len(budgets)} budgets"]
        listed = ", ".join(f"{p} at {b}" for p, b in zip(places, budgets, strict=True))
        sure = int((found["gap"] > found["gap_needed"]).sum())
        sentences.append(
            f"The lowest mean loss{of} is at {listed}; at {_share(sure, len(found))} it lies "
            f"further below the next one than seeds differ"
        )
    if axis.band:
        first = next(iter(series))
        found = best(runs[runs["series"] == first], axis.name)
        inside = int(found[axis.name].between(*axis.band).sum())
        low, high = (f"{axis.scale * end:.3g}" for end in axis.band)
        where = f"The text puts the best between {low} and {high}{axis.unit}"
        of = f" of {first}" if len(series) > 1 else ""
        verb = "lies" if inside == 1 else "lie"
        sentences.append(f"{where}: {inside or 'none'} of the {len(found)}{of} {verb} inside")
    return ". ".join(sentences) + "."


def _share(count: int, of: int) -> str:
    """How many of the budgets, in words that fit none and one of one too.

    >>> _share(0, 2), _share(1, 1), _share(1, 4)
    ('none of 2 budgets', 'its budget', '1 of 4 budgets')
    """
    if of == 1:
        return "its budget" if count else "no budget"
    return f"{count or 'none'} of {of} budgets"


def best(means: pd.DataFrame, axis: str) -> pd.DataFrame:
    """The place of the lowest mean at each budget, its lead, and the lead that noise needs."""
    rows = []
    for budget, group in means.groupby("budget_flops"):
        if group[axis].nunique() < 2:
            continue
        ordered = group.sort_values("loss_nats")
        first, second = ordered.iloc[0], ordered.iloc[1]
        wide = ordered["loss_nats_high"] - ordered["loss_nats"]
        rows.append({
            "budget_flops": budget,
            axis: float(first[axis]),
            "gap": float(second["loss_nats"] - first["loss_nats"]),
            "gap_needed": float(np.hypot(wide.iloc[0], wide.iloc[1])),
        })  # fmt: skip
    return pd.DataFrame(rows, columns=["budget_flops", axis, "gap", "gap_needed"])


def means_of(
    runs: pd.DataFrame,
    axis: str,
    labels: pd.Series | str = "ours",
    repeated: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Means over seeds along an axis at each budget, with the 90 % interval of seed noise."""
    return linked_means(runs.assign(series=labels), [axis, "series"], repeated)


def _panel(
    ax: Axes, runs: pd.DataFrame, axis: Axis, series: Mapping[str, str], fits: Sequence[str]
) -> None:
    if axis.band:
        label = "the text's best"
        ax.axvspan(*axis.band, color=theme.colour("published"), alpha=0.18, lw=0, label=label)
    if axis.is_log:
        ax.set_xscale("log")
    for name, role in series.items():
        group = runs[runs["series"] == name].sort_values(axis.name)
        if group.empty:
            continue
        ink = theme.colour(role)
        ax.plot(group[axis.name], group["loss_nats"], color=ink, lw=0.8, alpha=0.6)
        draw_points(ax, group, axis.name, "loss_nats", colour=ink, label=name)
        if name in fits and group[axis.name].nunique() >= MIN_PLACES:
            x = group[axis.name].to_numpy(float)
            place = np.log(x) if axis.is_log else x
            curve = np.polynomial.Polynomial.fit(place, group["loss_nats"].to_numpy(float), 2)
            dense = np.linspace(place.min(), place.max(), 61)
            drawn = np.exp(dense) if axis.is_log else dense
            line = "--" if curve.convert().coef[-1] > 0 else ":"
            ax.plot(drawn, curve(dense), line, color=ink, lw=1.4)
    if axis.ticks:
        ax.set_xticks(list(axis.ticks), [f"{tick:g}" for tick in axis.ticks])
        ax.minorticks_off()
    ax.set_ylabel(axis_label("loss_nats").replace("Held-out loss ", ""))
