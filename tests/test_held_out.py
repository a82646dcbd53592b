"""The order of rival laws on rows that they were not fitted to."""

import numpy as np
import pytest
from synthetic_fits import leverage_of

from moe_leverage.analysis.held_out import compare
from moe_leverage.theory.laws import PUBLISHED, JointLaw
from moe_leverage.theory.rivals import (
    ActivationPowerLaw,
    ConstantLeverage,
    FreeInteraction,
    JointLawWithoutGranularity,
)

RIVALS = (JointLaw, ConstantLeverage, ActivationPowerLaw, JointLawWithoutGranularity,
          FreeInteraction)  # fmt: skip


@pytest.mark.parametrize(
    "truth", [PUBLISHED.joint, ActivationPowerLaw(-0.1, -0.4), ConstantLeverage(0.5)]
)
def test_the_true_form_wins_on_unseen_rows(truth):
    table = leverage_of(truth, 150)
    scores = compare(RIVALS, table, "efficiency_leverage")
    by_law = {score.law: score for score in scores}
    true = by_law[type(truth).__name__]
    assert true.held_out_error < 1.03 * scores[0].held_out_error
    assert true.bic == min(score.bic for score in scores)
    assert [s.held_out_error for s in scores] == sorted(s.held_out_error for s in scores)
    assert true.num_held_out == 150


def test_rows_held_out_are_not_fitted():
    table = leverage_of(PUBLISHED.joint, 100)
    apart = table["compute"] > 1e20
    spoiled = np.where(apart, 50.0, table["efficiency_leverage"])
    scores = compare([JointLaw], table | {"efficiency_leverage": spoiled, "apart": apart},
                     "efficiency_leverage", held_out="apart")  # fmt: skip
    assert scores[0].num_held_out == apart.sum()
    assert scores[0].error < 0.06
    assert scores[0].held_out_error > 1.5


def test_folds_keep_clusters_together():
    table = leverage_of(ConstantLeverage(0.5), 40)
    table["efficiency_leverage"] = np.repeat(np.exp(np.arange(4.0)), 10)
    table["group"] = np.repeat(np.arange(4), 10)
    together = compare([ConstantLeverage], table, "efficiency_leverage", clusters="group")[0]
    apart = compare([ConstantLeverage], table, "efficiency_leverage")[0]
    assert together.held_out_error > 1.1 * apart.held_out_error


def test_laws_that_the_table_cannot_tell_are_left_out():
    table = leverage_of(PUBLISHED.joint, 30)
    table["granularity"] = np.full(30, 2.0)
    laws = {score.law for score in compare(RIVALS, table, "efficiency_leverage")}
    assert laws == {"ConstantLeverage", "ActivationPowerLaw", "JointLawWithoutGranularity"}
    with pytest.raises(ValueError, match="none is identified"):
        compare([JointLaw], table, "efficiency_leverage")
    with pytest.raises(ValueError, match="leaves no row to fit"):
        compare([JointLaw], table | {"apart": np.ones(30)}, "efficiency_leverage", held_out="apart")
