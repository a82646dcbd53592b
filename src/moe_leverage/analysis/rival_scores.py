"""The joint law beside its rivals, those of the loss among them, on the points of one table."""

from __future__ import annotations

import pandas as pd

from moe_leverage.analysis.as_leverage import Frontier, as_leverage
from moe_leverage.analysis.held_out import Score, compare
from moe_leverage.analysis.leverage import Leverage
from moe_leverage.theory.law import Law
from moe_leverage.theory.registry import rivals


def rival_scores(measured: Leverage, seed: int) -> dict[str, list[Score]]:
    """How well the joint law and each rival tell EL of points that they were not fitted to."""
    points = measured.points
    of_law = points[points["estimator"] == "joint"]
    if len(of_law) == 0:
        return {}
    frontier = points[points["estimator"] == "frontier"].reset_index(drop=True)
    frontier = frontier.assign(apart=of_law["held_out"].to_numpy(), **_sizes(measured))
    frontier = frontier[frontier["efficiency_leverage"].notna() & (frontier["variant"] == "")]
    target = "efficiency_leverage"
    forms = (*rivals(target, frontier), *_loss_laws(measured, frontier))
    scores = {"ten folds": compare(forms, frontier, target, seed=seed)}
    if frontier["apart"].any():
        scores["held out"] = compare(forms, frontier, target, held_out="apart", seed=seed)
    return scores


def _sizes(measured: Leverage) -> dict[str, pd.Series]:
    """N and D of the run behind each point, where the table knows them."""
    best = measured.best[measured.best["is_moe"]].reset_index(drop=True)
    sizes = {"num_params": best["active_params"], "num_tokens": best["num_tokens"]}
    return {name: values for name, values in sizes.items() if (values > 0).all()}


def _loss_laws(measured: Leverage, points: pd.DataFrame) -> tuple[type[Law], ...]:
    """The laws of the loss whose inputs the points have, each as the law of EL that it implies."""
    floored = measured.fits.get("dense, FlooredPowerLaw")
    floor = 0.0 if floored is None else float(floored.law.coefficients[0])
    frontier = Frontier.through(measured.best[~measured.best["is_moe"]], floor)
    return tuple(as_leverage(law, frontier) for law in rivals("loss", points))
