"""The figure that the book opens with: efficiency leverage over compute and activation ratio.

A    activation ratio
C    training compute, FLOPs
EL   efficiency leverage (Equation 1); the law is Equation 13 with the paper's Table 2
G    granularity
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from moe_leverage.figures.activation_ratio import RATIO_TICKS
from moe_leverage.figures.joint_law import EXAMPLE
from moe_leverage.page import theme
from moe_leverage.page.drawing import log_axes, note, plain_ticks, points, power, ranges
from moe_leverage.page.links import link_runs
from moe_leverage.page.registry import Drawing, figure
from moe_leverage.theory.laws import JointLaw

SHOWN_FLOPS = (3e10, 1e23)
LEVELS = (1.5, 2, 3, 4, 5, 7)
OUR_GRANULARITY = 2.0  # of most measured models: their break-even is another than the example's
# how a measured point stands to EL = 1, by its interval: its marker and whether it is filled
STANDINGS = {
    "EL above 1": ("^", True),
    "EL near 1": ("o", False),
    "EL below 1": ("v", False),
}


@figure(
    "leverage-map",
    paper="Figure 1, Equation 13",
    data=("paper/coefficients.toml", "fits/leverage.csv", "fits/joint.json", "fits/index.json"),
    studies=("isoflop", "activation", "granularity"),
    caption="Efficiency leverage over training compute and activation ratio, at the granularity "
    "of the paper's example. Solid lines: the published law where the paper trained models; "
    "dotted: extrapolated. Left of the thick line the law has dense models win at that "
    "granularity, left of the thin one at G = 2, that of most of our own models (markers, by what "
    "their intervals say).",
)
def leverage_map(
    law: JointLaw,
    measured: pd.DataFrame | None = None,
    fitted: JointLaw | None = None,
    failing: Sequence[str] = (),
) -> Drawing:
    """Contours of EL over C and A, the break-even of either law, and where our points stand.

    While gates of our runs are `failing` the points say nothing, and our own law is not drawn.
    """
    grain = EXAMPLE["granularity"]
    low, high = law.domain["compute"]
    compute = np.union1d(np.geomspace(*SHOWN_FLOPS, 121), [low, high])
    ratio = np.geomspace(*theme.ACTIVATION_RANGE, 61)
    mesh = dict(zip(("compute", "activation_ratio"), np.meshgrid(compute, ratio), strict=True))
    leverage = law(granularity=grain, **mesh)
    fig, ax = plt.subplots(figsize=(theme.WIDTH_INCHES * 1.1, 4.4))
    inside = (compute >= low) & (compute <= high)
    for columns, style in ((compute <= low, ":"), (inside, "-"), (compute >= high, ":")):
        _contours(ax, compute[columns], ratio, leverage[:, columns], style)
    crossing = _break_even(ax, law, "published", "-", 2.6, grain)
    _break_even(ax, law, "published", "-", 1.2, OUR_GRANULARITY)
    for side, said in (("right", "dense wins "), ("left", " mixture wins")):
        ax.text(
            crossing, 0.0081, said, ha=side, fontsize=9, color=theme.colour("muted"), zorder=4,
            bbox={"facecolor": theme.colour("surface"), "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    runs = points(measured)
    _our_points(ax, runs)
    own = (
        _break_even(ax, fitted, "measured", "--", 1.8, OUR_GRANULARITY)
        if fitted is not None and not failing
        else None
    )
    ax.plot(EXAMPLE["compute"], EXAMPLE["activation_ratio"], "*", ms=13,
            color=theme.colour("accent"), label="the paper's example")  # fmt: skip
    log_axes(ax, "training_flops", "activation_ratio")
    ax.set(xlim=SHOWN_FLOPS, ylim=(0.0075, 1.15))
    plain_ticks(ax.yaxis, RATIO_TICKS)
    ax.grid(visible=False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=2, fontsize=9)
    note(fig, ranges(f"{power(low)} to {power(high)} FLOPs", runs))
    table = pd.DataFrame({name: values.ravel() for name, values in mesh.items()})
    table = table.assign(granularity=grain, efficiency_leverage=leverage.ravel())
    table = table.rename(columns={"compute": "training_flops"}).assign(series="published")
    rows = pd.concat([table, runs.assign(series="measured")], ignore_index=True)
    return Drawing(fig, rows, _finding(law, crossing, runs, own, failing))


def standings(runs: pd.DataFrame) -> pd.Series:
    """What the interval of each measured leverage says about 1.

    >>> frame = pd.DataFrame({"leverage_low": [1.2, 0.8, 0.5], "leverage_high": [2.0, 1.3, 0.9]})
    >>> list(standings(frame))
    ['EL above 1', 'EL near 1', 'EL below 1']
    """
    above, near, below = STANDINGS
    low, high = runs["leverage_low"].astype(float), runs["leverage_high"].astype(float)
    return pd.Series(np.where(low > 1, above, np.where(high < 1, below, near)), runs.index)


def _contours(
    ax: Axes, compute: np.ndarray, ratio: np.ndarray, leverage: np.ndarray, style: str
) -> None:
    inks = theme.sequential_colours(len(LEVELS))[::-1]
    lines = ax.contour(
        compute, ratio, leverage, levels=LEVELS, colors=inks, linewidths=1.5, linestyles=style
    )
    if style == "-":
        ax.clabel(lines, fmt="EL = %g", fontsize=9)


def _break_even(
    ax: Axes, law: JointLaw, role: str, style: str, width: float, grain: float
) -> float:
    """Draw the compute at which a law has EL = 1 at a granularity, whatever A, and return it."""
    crossing = float(law.break_even_compute(EXAMPLE["activation_ratio"], grain))
    if SHOWN_FLOPS[0] < crossing < SHOWN_FLOPS[1]:
        label = f"EL = 1, {role}, G = {grain:g}: {power(crossing)}"
        ax.axvline(crossing, color=theme.colour(role), ls=style, lw=width, label=label)
    return crossing


def _our_points(ax: Axes, runs: pd.DataFrame) -> None:
    if runs.empty:
        return
    ink = theme.colour("measured")
    for name, group in runs.groupby(standings(runs)):
        marker, is_filled = STANDINGS[str(name)]
        face = ink if is_filled else "none"
        ax.plot(
            group["training_flops"], group["activation_ratio"], marker, color=ink,
            markerfacecolor=face, markeredgewidth=1.4, label=f"measured: {name}",
        )  # fmt: skip
    link_runs(ax, runs, "training_flops", "activation_ratio")


def _finding(
    law: JointLaw, crossing: float, runs: pd.DataFrame, own: float | None, failing: Sequence[str]
) -> str:
    text = (
        f"By the published law leverage grows with compute and with sparsity, to "
        f"{law(**EXAMPLE):.1f} at the star, at whose granularity dense models win below "
        f"{power(crossing)} FLOPs."
    )
    if runs.empty:
        return f"{text} No leverage of our own is measured yet."
    if failing:
        return (
            f"{text} Our {len(runs)} points decide nothing, since gates of their runs fail: "
            f"{', '.join(failing)}."
        )
    above, near, below = (int((standings(runs) == name).sum()) for name in STANDINGS)
    text += (
        f" Of our {len(runs)} measured points {above} have EL above 1 with their whole interval "
        f"and {below} below; {near} cannot tell."
    )
    return (
        text
        if own is None
        else f"{text} Our own fit puts break-even at {power(own)} FLOPs for G = 2."
    )
