"""Figures of chapter 01: what a token costs, by component and by convention (Appendix C).

M    non-embedding FLOPs of one token's forward pass
s    sequence length
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from moe_leverage.accounting import CONVENTIONS, ForwardFlops, count_forward_flops
from moe_leverage.config import ModelConfig
from moe_leverage.page import theme
from moe_leverage.page.drawing import note
from moe_leverage.page.notation import axis_label
from moe_leverage.page.registry import Drawing, figure

COMPONENTS = tuple(f.name for f in fields(ForwardFlops) if f.name not in ("norms", "mtp"))


def flops_table(models: Mapping[str, ModelConfig], sequence_length: int) -> pd.DataFrame:
    """Forward FLOPs of a token by model, convention and component, one row each."""
    rows = [
        {
            "model": name,
            "convention": convention,
            "component": component,
            "flops_per_token": getattr(count, component),
        }
        for name, model in models.items()
        for convention in CONVENTIONS
        for count in [count_forward_flops(model, sequence_length, convention)]
        for component in COMPONENTS
    ]
    return pd.DataFrame(rows)


@figure(
    "flops-by-component",
    paper="Appendix C, Equations 14 to 16; sizes of Table 7",
    data=("paper/table_07.csv",),
    caption="Where the FLOPs of one token's forward pass go in the experimental models of Table 7 "
    "(convention `exact`, logits included). The router is drawn but hardly visible.",
)
def by_component(table: pd.DataFrame, published: str) -> Drawing:
    """Stacked shares of the forward pass, one bar a model, from `flops_table`."""
    exact = table[table["convention"] == "exact"]
    shares = exact.pivot_table("flops_per_token", "model", "component", sort=False)
    shares = shares.loc[exact["model"].unique(), [c for c in COMPONENTS if c in shares]]
    shares = shares.loc[:, shares.sum() > 0]
    total = shares.sum(axis=1)
    shares = shares.div(total, axis=0)
    fig, ax = plt.subplots(figsize=(theme.WIDTH_INCHES, 3.6))
    left = np.zeros(len(shares))
    inks = theme.sequential_colours(shares.shape[1])
    hatches = ["", "//", "", "..", "", "\\\\", ""]
    for ink, hatch, (component, share) in zip(inks, hatches, shares.items(), strict=False):
        label = str(component).replace("_", " ")
        ax.barh(
            shares.index, 100 * share, left=left, color=ink, hatch=hatch, label=label,
            edgecolor=theme.colour("surface"), linewidth=0.6,
        )  # fmt: skip
        left += 100 * share.to_numpy()
    ax.invert_yaxis()
    ax.set_xlim(0, 100)
    ax.set_xlabel("Share of the forward FLOPs of one token (%)")
    ax.set_ylabel("Model")
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    note(fig, published)
    first, last = shares["logits"].iloc[0], shares["logits"].iloc[-1]
    finding = (
        f"The logits take {first:.0%} of the forward FLOPs of the smallest model and {last:.0%} of "
        f"the largest, so leaving them out of the count matters most where the models are small."
    )
    return Drawing(fig, shares.mul(100).round(4).reset_index(), finding)


@figure(
    "flops-conventions",
    paper="Appendix C, Equations 14 to 16",
    data=("paper/table_07.csv",),
    caption="The same models under three conventions: compute per token relative to the exact "
    "count of the non-embedding part, both for training. The upper dashed line is Equation 16 as a "
    "whole, with the logits.",
)
def conventions(table: pd.DataFrame, published: str) -> Drawing:
    """Compute under each convention over the exact M, against the exact M."""
    body = table[table["component"] != "logits"]
    m, whole = (
        part.pivot_table("flops_per_token", "model", "convention", aggfunc="sum", sort=False)
        for part in (body, table)
    )
    ratios = m.div(m["exact"], axis=0)
    ratios["paper with logits"] = whole["paper"] / m["exact"]
    fig, ax = plt.subplots()
    inks = ("ink", "published", "accent", "published")
    styles = (("-", ""), ("--", "s"), (":", "^"), ("--", "D"))
    for ink, (line, marker), (name, ratio) in zip(inks, styles, ratios.items(), strict=True):
        ax.plot(
            m["exact"], ratio, line, marker=marker, color=theme.colour(ink),
            label=str(name).replace("six_n", "six_n (2 N_a)"),
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlabel(axis_label("flops_per_token"))
    ax.set_ylabel("Compute over the exact $M$")
    ax.legend()
    note(fig, published)
    low, high = ratios["six_n"].min(), ratios["six_n"].max()
    finding = (
        f"Without logits, Equations 14 to 16 give {ratios['paper'].min():.0%} to "
        f"{ratios['paper'].max():.0%} of the exact count and 2 N_a a token gives {low:.0%} to "
        f"{high:.0%}; with logits, Equation 16 gives {ratios['paper with logits'].max():.1f} times "
        f"the exact count at the smallest model."
    )
    return Drawing(fig, ratios.rename_axis(columns=None).reset_index(), finding)
