"""Figures of chapter 17: models that are pruned while they train, read by their parameter counts.

N_0, N_1, N_mean   parameters without vocabulary matrices: first, last, mean over training
e                  ln(measured loss / loss of the dense law at one of these counts)
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from moe_leverage import ledger
from moe_leverage.analysis import journey
from moe_leverage.page import theme
from moe_leverage.page.drawing import linked_means, note, percent, power
from moe_leverage.page.links import link_runs
from moe_leverage.page.registry import Drawing, figure
from moe_leverage.studies.neighbours import WINDOWS

READINGS: Mapping[str, str] = {  # of analysis.journey, as a panel calls them
    "final": "at its final count",
    "average": "at its average count",
    "first": "at its first count",
}
SCHEDULE = ["prune_sparsity", "prune_start", "prune_end"]


def pruned(runs: pd.DataFrame) -> pd.DataFrame:
    """The pruned runs of the study, with `window` in words and `average_share`, N_mean / N_0."""
    if runs.empty:
        return runs
    kept = runs[runs["prune_sparsity"].astype(float) > 0]
    windows = map(_window, kept["prune_start"], kept["prune_end"])
    share = kept["average_params"].astype(float) / kept["total_params"].astype(float)
    return kept.assign(window=list(windows), average_share=share)


def _window(start: float, end: float) -> str:
    return f"{100 * start:.0f} to {100 * end:.0f} %"


def schedule_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a schedule: its counts over the first, its FLOPs on a machine that skips zeros over
    those on a dense one, and its mean loss at each budget."""
    columns = ["final sparsity", "pruned", "N_mean / N_0", "N_1 / N_0", "sparse / dense FLOPs"]
    if runs.empty:
        return pd.DataFrame(columns=columns)
    done = pruned(ledger.finished(runs))
    rows = []
    for (sparsity, _, _), mine in done.groupby(SCHEDULE):
        first = mine["total_params"].astype(float)
        flops = mine["sparse_training_flops"].astype(float) / mine["training_flops"].astype(float)
        last = mine["final_params"].astype(float) / first
        cells = [sparsity, mine["window"].iloc[0], mine["average_share"].mean(), last.mean()]
        losses = mine.groupby("budget_flops")["loss_nats"].mean()
        rows.append(
            dict(zip(columns, [*cells, flops.mean()], strict=True))
            | {f"loss at {power(float(str(budget)))}": loss for budget, loss in losses.items()}
        )
    return pd.DataFrame(rows)


@figure(
    "journey-errors",
    paper="the claim of Jin et al.'s abstract",
    studies=("average-parameters",),
    caption="Loss of each model that was pruned while it trained, over what the dense law of the "
    "same study says of it when its size is taken to be its final, its average or its first "
    "parameter count, over the average as a share of the first: on the line the law is right. "
    "Means over seeds.",
)
def errors(runs: pd.DataFrame) -> Drawing:
    """Per cent by which the loss is off, one panel a reading; `runs` are all of the study."""
    done = ledger.finished(runs)
    own = pruned(done)
    places = ["run_id", "config_id", "budget_flops", "average_share"]
    table = own[places].join(journey.errors(done).apply(np.expm1) * 100)
    means = table.groupby(["budget_flops", "config_id"], as_index=False).agg(
        {"run_id": " ".join, "average_share": "mean", **dict.fromkeys(READINGS, "mean")}
    )
    size = (theme.WIDTH_INCHES * 1.25, 3.6)
    fig, axes = plt.subplots(1, len(READINGS), sharey=True, figsize=size)
    inks = [theme.colour(role) for role in ("measured", "moe")]
    for ax, (reading, words) in zip(axes, READINGS.items(), strict=True):
        ax.axhline(0, color=theme.colour("dense"), lw=1)
        for ink, marker, (budget, mine) in zip(
            inks, "os", means.groupby("budget_flops"), strict=True
        ):
            ax.plot(
                mine["average_share"], mine[reading], marker, color=ink, mfc="none",
                label=f"{power(float(str(budget)))} FLOPs",
            )  # fmt: skip
        link_runs(ax, means, "average_share", reading)
        ax.set_title(words)
        ax.set_xlabel("$\\bar N / N_0$")
    axes[0].set_ylabel("Loss over the dense law's, % off")
    axes[0].legend(fontsize=8.5)
    note(fig, "Ours alone: their abstract prints no loss.")
    return Drawing(fig, means, errors_in_words(runs))


def errors_in_words(runs: pd.DataFrame) -> str:
    """How far the law is off at each count, on average over the pruned runs."""
    sizes = (100 * (np.exp(journey.errors(ledger.finished(runs)).abs()) - 1)).mean().sort_values()
    told = ", ".join(f"{size:.1f} % at the {name} count" for name, size in sizes.items())
    return f"The dense law misses the losses of pruned models by {told}, on average."


@figure(
    "journey-windows",
    paper="the schedules of Jin et al.'s abstract",
    studies=("average-parameters",),
    caption="Loss by the share of training over which the weights are pruned, for three final "
    "sparsities at both budgets: means over seeds with the 90 % interval of seed noise.",
)
def windows(runs: pd.DataFrame) -> Drawing:
    """Loss over the window, a panel a budget, a colour a sparsity."""
    done = ledger.finished(runs)
    means = linked_means(pruned(done), ["window", "prune_sparsity"], repeated=done)
    budgets = sorted(means["budget_flops"].unique())
    size = (theme.WIDTH_INCHES * 1.25, 3.8)
    fig, axes = plt.subplots(1, len(budgets), squeeze=False, figsize=size)
    sparsities = sorted(means["prune_sparsity"].unique())
    order = [_window(*ends) for ends in sorted(WINDOWS)]
    for ax, budget in zip(axes[0], budgets, strict=True):
        for i, (ink, sparsity) in enumerate(
            zip(theme.sequential_colours(len(sparsities)), sparsities, strict=True)
        ):
            chosen = (means["budget_flops"] == budget) & (means["prune_sparsity"] == sparsity)
            mine = means[chosen].set_index("window").reindex(order).reset_index()
            place = np.arange(len(order)) + (i - 1) * 0.15
            wide = mine["loss_nats_high"] - mine["loss_nats"]
            ax.errorbar(
                place, mine["loss_nats"], yerr=wide, fmt="o", color=ink, elinewidth=1,
                label=percent(sparsity),
            )  # fmt: skip
            link_runs(ax, mine.assign(place=place), "place", "loss_nats")
        ax.set_xticks(range(len(order)), order, fontsize=8.5, rotation=30)
        ax.set_title(f"{power(budget)} FLOPs")
        ax.set_xlabel("Share of training, while pruned")
    axes[0][0].set_ylabel("Held-out loss, nats a token")
    axes[0][0].legend(
        fontsize=8.5, loc="lower left", bbox_to_anchor=(0.0, 1.1), ncols=3, title="zeros in the end"
    )
    note(fig, "Ours alone: their abstract prints no loss.")
    return Drawing(fig, means, windows_in_words(means, _window(*WINDOWS[0])))


def windows_in_words(means: pd.DataFrame, theirs: str) -> str:
    """Which window has the lowest loss over sparsities and budgets, and how far theirs is off."""
    by_window = means.groupby("window")["loss_nats"].mean().sort_values()
    best = str(by_window.index[0])
    if best == theirs:
        return f"Pruning from {theirs} of training has the lowest loss on average, as they say."
    behind = by_window[theirs] - by_window.iloc[0]
    return (
        f"Pruning from {best} of training has the lowest loss on average; theirs, {theirs}, lies "
        f"{behind:.3f} nats above it."
    )
