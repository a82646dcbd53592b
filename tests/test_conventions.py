"""Compute of a reader's runs: counted alike for all, and refused or warned of where it is not."""

import numpy as np
import pandas as pd
import pytest

from moe_leverage.your_runs.columns import ColumnMap
from moe_leverage.your_runs.conventions import complete_compute

SIZES = np.array([1e8, 2e8, 4e8, 8e8])
TOKENS = np.array([2e9, 4e9, 8e9, 16e9])


def frame_of(**columns):
    """Two dense rows and two mixtures, with these columns beside."""
    return pd.DataFrame({"is_moe": [False, False, True, True], **columns})


def map_of(*, units=None, columns=None, told=(), guessed=True):
    return ColumnMap(
        columns=columns or {}, units=units or {}, guessed=guessed, told=frozenset(told)
    )


def complete(frame, mapping=None, shaped=None):
    notes, warnings = [], []
    mapping = map_of() if mapping is None else mapping
    found, gap = complete_compute(frame, shaped, mapping, notes, warnings)
    return found, gap, notes, warnings


def test_compute_that_no_table_has_is_counted_from_sizes_and_tokens():
    found, gap, notes, _ = complete(frame_of(active_params=SIZES, num_tokens=TOKENS))
    np.testing.assert_allclose(found["compute"], 6 * SIZES * TOKENS)
    assert (gap, notes) == (0.0, ["compute is 6 x active parameters x tokens"])


def test_forward_flops_of_a_token_are_counted_before_sizes_where_every_row_has_them():
    both = frame_of(active_params=SIZES, num_tokens=TOKENS, flops_per_token=2.5 * SIZES)
    found, _, notes, _ = complete(both)
    np.testing.assert_allclose(found["compute"], 3 * 2.5 * SIZES * TOKENS)
    assert notes == ["compute is 3 x forward FLOPs per token x tokens"]
    gap_in_one = both.assign(flops_per_token=both["flops_per_token"].where(both.index != 2))
    found, _, notes, _ = complete(gap_in_one)
    np.testing.assert_allclose(found["compute"], 6 * SIZES * TOKENS)
    assert notes == ["compute is 6 x active parameters x tokens"]


def test_shapes_count_first_of_all():
    shaped = pd.Series(2.2 * SIZES)
    found, _, notes, _ = complete(frame_of(active_params=SIZES, num_tokens=TOKENS), shaped=shaped)
    np.testing.assert_allclose(found["compute"], 3 * shaped * TOKENS)
    assert notes == ["compute is 3 x exact forward FLOPs of the shape x tokens"]


def test_compute_that_some_tables_have_is_counted_alike_in_all():
    compute = np.where(np.arange(4) < 2, 7 * SIZES * TOKENS, np.nan)
    found, _, notes, _ = complete(frame_of(active_params=SIZES, num_tokens=TOKENS, compute=compute))
    np.testing.assert_allclose(found["compute"], 6 * SIZES * TOKENS)
    assert notes[0] == "compute is not given in every table: counted alike in all"


@pytest.mark.parametrize("lacking", [{"active_params": SIZES}, {"num_tokens": TOKENS}, {}])
def test_compute_that_cannot_be_counted_is_asked_for(lacking):
    with pytest.raises(ValueError, match=r"^compute = None: not given, and cannot be counted"):
        complete(frame_of(**lacking))
    one_row_short = np.where(np.arange(4) == 1, np.nan, SIZES)
    with pytest.raises(ValueError, match="cannot be counted"):
        complete(frame_of(active_params=one_row_short, num_tokens=TOKENS))


def test_six_n_d_is_counted_again_where_shapes_are_known_and_else_said():
    mapping = map_of(units={"compute": "six_n"})
    frame = frame_of(active_params=SIZES, num_tokens=TOKENS, compute=6 * SIZES * TOKENS)
    found, _, notes, _ = complete(frame, mapping, shaped=pd.Series(2.2 * SIZES))
    np.testing.assert_allclose(found["compute"], 6.6 * SIZES * TOKENS)
    assert notes == [
        "compute in 6 N D is counted again as 3 x exact forward FLOPs of the shape x tokens"
    ]
    found, _, notes, _ = complete(frame, mapping)
    np.testing.assert_allclose(found["compute"], 6 * SIZES * TOKENS)
    assert notes == ["compute is in 6 N D; the published law counts exact FLOPs"]
    assert complete(frame, map_of(units={"compute": "training"}))[2] == []


def test_a_dense_row_s_active_parameters_are_all_it_has():
    active = np.where(np.arange(4) < 2, np.nan, SIZES)
    frame = frame_of(total_params=2 * SIZES, active_params=active, num_tokens=TOKENS)
    found, _, notes, _ = complete(frame)
    assert found["active_params"].tolist() == [2e8, 4e8, 4e8, 8e8]
    assert notes[0] == "active_params of dense rows is their total_params"
    whole = frame.assign(active_params=SIZES)
    found, _, notes, _ = complete(whole)  # what is given stays
    assert found["active_params"].tolist() == SIZES.tolist()
    assert len(notes) == 1


def test_sizes_of_mixtures_alone_or_of_some_dense_rows_stay_as_they_are():
    compute = 6 * SIZES * TOKENS
    mixtures = frame_of(total_params=SIZES, compute=compute).assign(is_moe=True)
    assert "active_params" not in complete(mixtures)[0]
    some = frame_of(total_params=np.where(np.arange(4) == 0, np.nan, SIZES), compute=compute)
    assert "active_params" not in complete(some)[0]
    dense_alone = frame_of(total_params=SIZES, compute=compute)
    assert complete(dense_alone)[0]["active_params"].notna().tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("ratio", "kept"), [(2.0, 1.0), (5.1, 1.0), (5.3, 1 / 3), (15.0, 1 / 3), (1.4, 0), (17.0, 0)]
)
def test_flops_of_a_token_are_forward_or_training_by_their_size(ratio, kept):
    active = np.where(np.arange(4) == 3, np.nan, SIZES)  # one row need not tell
    frame = frame_of(flops_per_token=ratio * SIZES, active_params=active, num_tokens=TOKENS)
    mapping = map_of(columns={"flops_per_token": "M"})
    if not kept:
        with pytest.raises(ValueError, match=r"^flops_per_token \(column M\) = 1[.7]"):
            complete(frame, mapping)
        return
    found, _, notes, _ = complete(frame, mapping)
    np.testing.assert_allclose(found["flops_per_token"], kept * ratio * SIZES)
    assert ("training FLOPs of a token" in notes[0]) == (kept < 1)
    told = map_of(columns={"flops_per_token": "M"}, told=["flops_per_token"])
    np.testing.assert_allclose(complete(frame, told)[0]["flops_per_token"], ratio * SIZES)
    as_training = map_of(units={"flops_per_token": "training"})
    found = complete(frame, as_training)[0]
    np.testing.assert_allclose(found["flops_per_token"], ratio * SIZES)


@pytest.mark.parametrize(
    ("passes", "kept"), [(1.0, 1 / 3), (1.3, 1 / 3), (3.0, 1.0), (4.0, 1.0), (1.7, 0), (9.0, 0)]
)
def test_without_sizes_compute_tells_what_the_flops_of_a_token_are(passes, kept):
    frame = frame_of(flops_per_token=SIZES, num_tokens=TOKENS, compute=passes * SIZES * TOKENS)
    mapping = map_of(columns={"flops_per_token": "M"}, units={"compute": "training"})
    if not kept:
        with pytest.raises(ValueError, match="forward or training"):
            complete(frame, mapping)
        return
    np.testing.assert_allclose(complete(frame, mapping)[0]["flops_per_token"], kept * SIZES)


def test_a_name_or_a_map_that_says_forward_is_believed_where_nothing_tells():
    frame = frame_of(flops_per_token=SIZES, num_tokens=TOKENS)
    for mapping in (
        map_of(columns={"flops_per_token": "flops_per_token"}),
        map_of(columns={"flops_per_token": "Forward FLOPs"}),
        map_of(columns={"flops_per_token": "M"}, guessed=False),
    ):
        np.testing.assert_allclose(complete(frame, mapping)[0]["flops_per_token"], SIZES)


def test_tokens_of_dense_runs_follow_from_compute_and_size():
    dense = pd.DataFrame({"is_moe": False, "active_params": SIZES, "compute": 6 * SIZES * TOKENS})
    found, _, notes, _ = complete(dense)
    np.testing.assert_allclose(found["num_tokens"], TOKENS)
    assert notes == ["num_tokens is C / (6 N)"]
    mixed = frame_of(active_params=SIZES, compute=6 * SIZES * TOKENS)
    assert "num_tokens" not in complete(mixed)[0]
    known = dense.assign(num_tokens=1.1 * TOKENS)
    np.testing.assert_allclose(complete(known)[0]["num_tokens"], 1.1 * TOKENS)


def many(ratio, count=8):
    """Dense rows and as many mixtures over the same sizes; `ratio` is compute over 6 N_a D."""
    sizes = np.tile(np.geomspace(1e8, 1e10, count), 2)
    return pd.DataFrame({
        "is_moe": np.arange(2 * count) >= count, "active_params": sizes,
        "num_tokens": 20 * sizes, "compute": ratio * 6 * sizes * 20 * sizes,
    })  # fmt: skip


def test_one_row_in_another_unit_is_named():
    ratio = np.ones(16)
    ratio[11] = 3.0
    with pytest.raises(ValueError, match=r"^row 11, compute = .*: is 3 x 6 x .* rows 1 x: mixed"):
        complete(many(ratio))
    complete(many(ratio), map_of(told=["compute"]))
    ratio[11] = 1.3  # within what conventions differ by
    assert complete(many(ratio))[1] == 0.0


@pytest.mark.parametrize(
    ("factor", "word"), [(1.1, None), (0.9, None), (1.4, "40% above"), (0.7, "30% below")]
)
def test_mixtures_in_another_convention_are_warned_of(factor, word):
    _, gap, _, warnings = complete(many(np.where(np.arange(16) >= 8, factor, 1.0)))
    if word is None:
        assert (gap, warnings) == (0.0, [])
        return
    assert gap == pytest.approx(np.log(factor))
    assert len(warnings) == 1
    assert f"lie {word}" in warnings[0]
    assert "row 8" in warnings[0] or "8" in warnings[0].split("rows")[-1]


@pytest.mark.parametrize(("factor", "row"), [(2.2, 0), (1 / 2.2, 8)])
def test_mixtures_at_twice_the_level_are_in_other_units(factor, row):
    """Which of the two families is meant, nothing tells: the first row of the lower is named."""
    with pytest.raises(ValueError, match=rf"^row {row}, compute = .* mixed units"):
        complete(many(np.where(np.arange(16) >= 8, 2 * factor, 2.0)))


def test_of_two_faults_the_single_row_is_named():
    ratio = np.where(np.arange(16) >= 8, 1.4, 1.0)
    ratio[11] = 5.0
    with pytest.raises(ValueError, match=r"^row 11, compute = .* mixed units"):
        complete(many(ratio))


def test_a_ratio_that_falls_as_models_grow_is_no_gap_between_families():
    """Attention and vocabulary weigh less in large models, and the mixtures may be the large."""
    sizes = np.r_[np.geomspace(1e7, 1e9, 8), np.geomspace(1e9, 1e11, 8)]
    frame = many(np.ones(16)).assign(active_params=sizes, num_tokens=20 * sizes)
    frame["compute"] = 120 * sizes**2 * 1.6 * (sizes / 1e9) ** -0.1
    assert complete(frame)[1] == 0.0


@pytest.mark.parametrize(("level", "words"), [(0.4, "forward FLOPs?"), (0.1, ""), (6.5, "")])
def test_compute_at_a_level_that_no_convention_has_is_refused(level, words):
    with pytest.raises(ValueError, match=rf"^row 0, compute = .*: is {level} x 6 x") as refused:
        complete(many(np.full(16, level)))
    assert ("forward FLOPs?" in str(refused.value)) == bool(words)
    complete(many(np.full(16, level)), map_of(told=["compute"]))


@pytest.mark.parametrize("level", [0.65, 1.0, 2.4, 4.9])
def test_any_level_that_exact_flops_may_have_is_taken(level):
    assert complete(many(np.full(16, level)))[1] == 0.0
