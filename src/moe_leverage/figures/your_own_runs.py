"""Figures of chapter 12: a reader's losses, the curves fitted to them, and the leverage they give.

C    training compute, FLOPs
L    loss, nats per token
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from moe_leverage.analysis.fitted import Fit
from moe_leverage.page import theme
from moe_leverage.page.drawing import FAMILIES, log_axes, note, plain_ticks, power
from moe_leverage.page.registry import Drawing, figure

ROLES = {"dense": ("dense", "s"), "moe": ("moe", "o")}


@figure(
    "own-losses",
    paper="Section 3, the loss model L = alpha C^-beta",
    caption="Losses of a small table of runs against compute, with the power law fitted to each "
    "family and its 90 % confidence band.",
)
def losses(table: pd.DataFrame, fits: Mapping[str, Fit]) -> Drawing:
    """Points and fitted curves by family; the table has family, compute and loss."""
    fig, ax = plt.subplots()
    grid = np.geomspace(table["compute"].min() / 2, table["compute"].max() * 2, 61)
    drawn = []
    for family, fitted in fits.items():
        role, marker = ROLES[family]
        ink, group = theme.colour(role), table[table["family"] == family]
        found = fitted.predict({"compute": grid})
        ax.plot(
            group["compute"], group["loss"], marker, color=ink, mfc="none", label=FAMILIES[family]
        )
        ax.plot(grid, found.value, theme.LINES[role], color=ink, lw=1.4)
        ax.fill_between(grid, *found.confidence.T, color=ink, alpha=0.15, lw=0)
        ends = dict(zip(("low", "high"), found.confidence.T, strict=True))
        columns = {"family": family, "training_flops": grid, "loss_nats": found.value} | ends
        drawn.append(pd.DataFrame(columns))
    log_axes(ax, "training_flops", "loss_nats")
    low, high = ax.get_ylim()
    plain_ticks(ax.yaxis, [t for t in (2, 2.5, 3, 3.5, 4, 4.5, 5) if low < t < high])
    ax.legend()
    note(
        fig, f"The table: {power(table['compute'].min())} to {power(table['compute'].max())} FLOPs."
    )
    slopes = {family: -fitted.law.coefficients[1] for family, fitted in fits.items()}
    finding = (
        "The loss falls with compute to the power "
        + " and ".join(f"{slope:.3f} ({FAMILIES[family]})" for family, slope in slopes.items())
        + f", from {len(table)} runs."
    )
    return Drawing(fig, pd.concat(drawn, ignore_index=True), finding)
