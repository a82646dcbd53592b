"""Figure of the router microscope: how even the experts' loads are while a small model learns.

K / E    share of an expert when loads are even: K chosen of E
entropy  of the loads of a layer over ln E, 1 when even
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd

from moe_leverage.page import theme
from moe_leverage.page.registry import Drawing, figure

STYLES: dict[str, tuple[str, str | tuple[int, tuple[int, ...]]]] = {  # colour and line
    "balance loss": ("moe", "-"),
    "selection bias": ("published", "--"),
    "no balancing": ("measured", ":"),
    "strong balance loss": ("accent", "-."),
    "weak balance loss": ("ink", (0, (1, 1))),
}
PANELS = (("entropy", "entropy of loads"), ("max_over_mean", "largest load over mean"))


@figure(
    "router-balance",
    paper="Appendix B",
    data=("instruments/router.json",),
    caption="Evenness of the experts' loads on held-out text while one small model learns, mean "
    "over its layers: the paper's balance loss, a strong and a weak one, the selection bias of "
    "Ling 2.0, and no balancing at all.",
)
def balance(course: pd.DataFrame) -> Drawing:
    """Entropy and largest load over the steps of training, a line for each way of balancing."""
    fig, axes = plt.subplots(1, len(PANELS), figsize=(theme.WIDTH_INCHES, 3.2))
    for ax, (column, label) in zip(axes, PANELS, strict=True):
        for name, rows in course.groupby("balancing", sort=False):
            role, line = STYLES[str(name)]
            x = rows["steps"] + 1
            ax.plot(x, rows[column], color=theme.colour(role), ls=line, label=name)
        ax.set_xscale("log")
        ax.set_xlabel("steps of training, plus one")
        ax.set_ylabel(label)
    axes[0].set_ylim(0, 1.02)
    axes[1].set_ylim(bottom=1)
    axes[0].legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=2, fontsize=9)
    last = course[course["steps"] == course["steps"].max()].set_index("balancing")
    said = "; ".join(
        f"{row['max_over_mean']:.1f} times with {name}" for name, row in last.iterrows()
    )
    steps, idle = int(course["steps"].max()), last["idle_experts"]
    finding = (
        f"After {steps} steps the busiest expert of a layer serves this many times the mean load, "
        f"averaged over layers: {said}. Then {idle.max():.0f} experts are idle with "
        f"{idle.idxmax()}, {idle.min():.0f} with {idle.idxmin()}."
    )
    return Drawing(fig, course, finding)
