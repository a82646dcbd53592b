"""Tables with one fault each, as they failed once, and what is right for them."""

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import all_runs

from moe_leverage.analysis.bootstrap import student_ratio
from moe_leverage.analysis.envelope import fit_envelope
from moe_leverage.analysis.findings import examine, joint_law
from moe_leverage.analysis.outliers import find_outliers, without
from moe_leverage.analysis.points import best_runs
from moe_leverage.theory.rivals import ChinchillaLaw
from moe_leverage.your_runs import report
from moe_leverage.your_runs.columns import SYNONYMS, guess_map
from moe_leverage.your_runs.reading import Choice, read_runs

SWEPT = """kind,num_experts,top_k,granularity,lr,batch_size,flops,tokens,loss,seed
dense,0,0,,1e-3,64,1e18,1e9,3.50,42
dense,0,0,,1e-3,512,1e18,1e9,5.50,42
dense,0,0,,1e-3,64,1e19,3e9,3.00,42
dense,0,0,,1e-3,512,1e19,3e9,5.00,42
dense,0,0,,1e-3,64,1e20,1e10,2.60,42
dense,0,0,,1e-3,512,1e20,1e10,4.60,42
moe,64,2,2,1e-3,64,3e18,1e9,3.00,42
moe,64,2,2,1e-3,512,3e18,1e9,4.00,42
"""
LOW_FLOPS = """kind,A,G,active_params,tokens,flops,loss
dense,1,2,1e8,2e9,1.2e18,3.10
dense,1,2,2e8,4e9,4.8e18,2.85
dense,1,2,4e8,8e9,1.92e19,2.63
dense,1,2,8e8,16e9,7.68e19,2.45
moe,0.03,4,1e8,2e9,0.90e18,2.90
moe,0.03,4,2e8,4e9,3.6e18,2.67
"""
EXACT_FLOPS = """kind,A,G,active params (M),tokens (B),FLOPs,loss
dense,1,2,20,0.40,1.15e17,3.64
dense,1,2,60,1.20,8.2e17,3.24
dense,1,2,150,3.00,4.4e18,2.99
dense,1,2,300,6.00,1.6e19,2.80
moe,0.0259,4,22,1.30,4.0e17,3.14
moe,0.0259,4,65,3.90,2.8e18,2.84
moe,0.0259,4,170,10.2,1.6e19,2.61
"""
CURVE_ROWS = """run,step,kind,A,G,flops,loss
d1,100,dense,1,2,1e17,5.0
d1,1000,dense,1,2,1e18,3.5
d2,1000,dense,1,2,1e18,4.2
d2,10000,dense,1,2,1e19,3.0
m1,300,moe,0.03,4,3e17,4.5
m1,3000,moe,0.03,4,3e18,3.0
"""
DEGENERATE_FLOOR = """kind,A,G,flops,loss
dense,1,2,1e18,3.60
dense,1,2,1e19,3.30
dense,1,2,1e20,2.98
dense,1,2,1e21,2.64
dense,1,2,1e22,2.33
moe,0.03,4,1e18,3.50
moe,0.03,4,1e19,3.15
"""
TWO_DENSE = """is_moe,activation_ratio,granularity,shared_ratio,flops,loss
False,1.0,2.0,0.0,1e+18,3.1979
False,1.0,2.0,0.0,1e+21,2.2975
True,0.01,2.0,0.0,1e+19,2.6110
True,0.01,4.0,0.0,1e+19,2.5951
True,0.08,4.0,0.0,1e+19,2.6899
"""
OUTLIER = """is_moe,activation_ratio,granularity,shared_ratio,flops,loss
False,1.0,2.0,0.0,1e+18,3.2012072377875946
False,1.0,2.0,0.0,2.6826957952797164e+18,3.0201213522956687
False,1.0,2.0,0.0,7.196856730011528e+18,2.868096529507609
False,1.0,2.0,0.0,1.9306977288832455e+19,2.7224469814286447
False,1.0,2.0,0.0,5.179474679231223e+19,3.3698167485012647
False,1.0,2.0,0.0,1.389495494373136e+20,2.4877662202865145
False,1.0,2.0,0.0,3.727593720314923e+20,2.3955812940085712
False,1.0,2.0,0.0,1e+21,2.304965002211374
True,0.03,4.0,0.0,1.5848931924611108e+18,2.935526884365705
True,0.03,4.0,0.0,3.9810717055349857e+18,2.7841286931310023
True,0.03,4.0,0.0,1e+19,2.6588371335433396
True,0.03,4.0,0.0,2.511886431509572e+19,2.547567607072802
True,0.03,4.0,0.0,6.309573444801942e+19,2.426477756399266
"""
MIXTURES = """kind,num_experts,top_k,n_shared_experts,granularity,flops,loss
moe,64,4,1,2,1e18,3.5273
moe,64,4,1,2,3e18,3.3398
moe,64,4,1,2,1e19,3.1494
moe,64,4,1,2,3e19,3.0066
moe,64,4,1,2,1e20,2.8509
moe,64,4,1,2,3e20,2.7222
"""
NO_AXES = """kind,flops,loss
dense,1e18,3.50
dense,3e18,3.25
dense,1e19,3.00
dense,3e19,2.80
moe,1e18,3.30
moe,3e18,3.06
moe,1e19,2.85
"""


def read(tmp_path, text, **choice):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    return read_runs(path, Choice(**choice))


def told(tmp_path, text, **choice):
    table = read(tmp_path, text, **choice)
    return report.summary(table, examine(table.runs, resamples=200))


def without_column(text, name):
    lines = [line.split(",") for line in text.splitlines()]
    place = lines[0].index(name)
    return "\n".join(",".join(c for i, c in enumerate(line) if i != place) for line in lines)


@pytest.mark.parametrize("text", [SWEPT, without_column(SWEPT, "seed")])
def test_equal_seeds_are_no_repeats_and_a_swept_column_is_named(tmp_path, text):
    record = told(tmp_path, text)
    (row,) = record["leverage"]
    assert row["efficiency_leverage"] == pytest.approx(3.33, abs=0.01)
    assert any("columns that differ there: batch_size" in note for note in record["notes"])


def test_rows_equal_in_all_but_their_loss_are_named_and_are_no_repeats(tmp_path):
    table = read(tmp_path, SWEPT + "moe,64,2,2,1e-3,64,3e18,1e9,3.10,42\n")
    assert table.runs["config_id"].is_unique
    assert any("equal another in every setting" in warning for warning in table.warnings)


def test_other_seeds_of_one_setting_are_repeats(tmp_path):
    runs = read(tmp_path, SWEPT + "moe,64,2,2,1e-3,64,3e18,1e9,3.10,43\n").runs
    assert runs["config_id"].duplicated().sum() == 1


def test_of_checkpoints_the_last_of_each_run_counts_unless_told_otherwise(tmp_path):
    record = told(tmp_path, CURVE_ROWS)
    assert record["num_runs"] == 3
    assert any("3 earlier checkpoint(s) left out" in warning for warning in record["warnings"])
    assert record["leverage"][0]["efficiency_leverage"] == pytest.approx(10 / 3, abs=0.01)
    kept = read(tmp_path, CURVE_ROWS, all_checkpoints=True)
    assert len(kept.runs) == 6
    assert any("intervals go by run" in warning for warning in kept.warnings)


def test_a_column_of_runs_that_groups_several_settings_is_a_label(tmp_path):
    text = CURVE_ROWS.replace("d2,1000,dense,1,2,1e18", "d1,1000,dense,1,2,2e18")
    table = read(tmp_path, text)
    assert len(table.runs) == 6
    assert any("read as a label" in warning for warning in table.warnings)


def test_two_dense_budgets_carry_no_interval(tmp_path):
    record = told(tmp_path, TWO_DENSE)
    assert all(row["efficiency_leverage"] > 1 for row in record["leverage"])
    assert all(row["interval"] is None for row in record["leverage"])
    assert any("no interval: two dense budgets" in warning for warning in record["warnings"])
    assert "can give no interval" in record["answer"][0]


def test_a_line_through_two_dense_budgets_gives_a_bound_and_says_that_it_overstates(tmp_path):
    record = told(tmp_path, TWO_DENSE)
    (first,) = record["answer"]
    assert "save at most a factor of 7.85" in first  # the truth is 5.0
    assert "a straight line" in first
    assert "overstates" in first
    assert "straight line, which overstates" in record["warnings"][0]
    for row in record["leverage"]:
        assert row["bound"] == {"at_most": row["efficiency_leverage"]}


def test_a_known_floor_or_a_third_dense_budget_makes_the_bound_an_answer(tmp_path):
    table = read(tmp_path, TWO_DENSE)
    record = report.summary(table, examine(table.runs, resamples=50, floor=1.7))
    assert "save a factor of 4.79" in record["answer"][0]  # the truth is 5.0
    third = told(tmp_path, TWO_DENSE + "False,1.0,2.0,0.0,3e+19,2.69\n")
    assert "save a factor of" in third["answer"][0]
    assert not any("straight line" in text for text in record["warnings"] + third["warnings"])
    worse = told(tmp_path, TWO_DENSE + "False,1.0,2.0,0.0,3e+19,3.3\n")  # no part of a frontier
    assert "save at most a factor of" in worse["answer"][0]


def test_mixtures_that_count_flops_otherwise_than_dense_rows_are_named(tmp_path):
    record = told(tmp_path, LOW_FLOPS)
    first = record["leverage"][0]
    assert first["efficiency_leverage"] == pytest.approx(3.97, abs=0.02)
    assert first["same_convention"] == pytest.approx(2.98, abs=0.02)
    assert any("25% below 6 x active parameters" in w for w in record["warnings"])


def test_exact_flops_far_above_6_n_d_are_legal(tmp_path):
    table = read(tmp_path, EXACT_FLOPS)
    assert table.convention_gap == 0.0
    assert table.warnings == []


def test_forward_flops_are_asked_about_and_an_override_holds(tmp_path):
    rows = [line.split(",") for line in LOW_FLOPS.splitlines()]
    for row in rows[1:]:
        row[5] = str(2 * float(row[3]) * float(row[4]))
    text = "\n".join(",".join(row) for row in rows)
    with pytest.raises(ValueError, match=r"forward FLOPs.*--unit compute=forward"):
        read(tmp_path, text)
    as_forward = read(tmp_path, text, units=("compute=forward",)).runs
    as_training = read(tmp_path, text, units=("compute=training",)).runs
    np.testing.assert_allclose(as_forward["compute"], 3 * as_training["compute"])


def test_a_dense_outlier_is_named_and_leverage_is_given_with_and_without(tmp_path):
    record = told(tmp_path, OUTLIER)
    assert any("outlier: row 6" in warning for warning in record["warnings"])
    first = record["leverage"][0]
    assert first["interval"][0] < 3 < first["interval"][1]
    moved = [row for row in record["leverage"] if row["with_outliers"] is not None]
    assert moved
    for row in moved:
        assert not row["interval"][0] <= row["with_outliers"] <= row["interval"][1]


def small_families():
    """Three runs in each of nine families of EL = A^(-1/4), too few for a curve; eight dense."""
    generator = np.random.default_rng(1)
    shares, grains = np.meshgrid((0.02, 0.06, 0.2), (2.0, 4.0, 8.0))
    axes = [
        {"kind": "moe", "A": share, "G": grain, "flops": compute}
        for share, grain in zip(shares.ravel(), grains.ravel(), strict=True)
        for compute in (3e18, 3e19, 3e20)
    ]  # fmt: skip
    dense = np.geomspace(1e18, 1e21, 8)
    axes += [{"kind": "dense", "A": 1.0, "G": 2.0, "flops": compute} for compute in dense]
    runs = pd.DataFrame(axes)
    equal = runs["flops"] * runs["A"] ** -0.25
    noise = np.exp(0.003 * generator.standard_normal(len(runs)))
    return runs.assign(loss=(1.7 + 1650 * equal**-0.19) * noise)


def with_fault(runs, place, factor):
    return runs.assign(loss=runs["loss"].where(runs.index != place, factor * runs["loss"]))


def outlier_warnings(record):
    return [text for text in record["warnings"] if "outlier" in text]


@pytest.mark.parametrize(("factor", "own"), [(1.25, None), (1.05, (0.2, 0.8)), (0.95, (10, 40))])
def test_a_mixture_whose_family_has_no_curve_is_an_outlier_of_the_joint_law(tmp_path, factor, own):
    """Also one so good that the joint fit would hold it out; beyond the dense losses it has no EL.

    Without it every estimate is what it would be had the run never been.
    """
    sound = small_families()
    assert not outlier_warnings(told(tmp_path, sound.to_csv(index=False)))
    record = told(tmp_path, with_fault(sound, 4, factor).to_csv(index=False))
    (said,) = outlier_warnings(record)
    assert said.startswith("outlier: row 6 at 3e+19 FLOPs")
    assert "joint law" in said
    never = told(tmp_path, sound.drop(index=4).to_csv(index=False))
    assert record["fits"]["joint"]["coefficients"] == never["fits"]["joint"]["coefficients"]
    assert record["answer"] == never["answer"]
    rows = [row for row in record["leverage"] if row["row"] == "row 6"]
    if own is None:
        assert not rows
    else:
        (row,) = rows
        assert row["efficiency_leverage"] is None
        assert own[0] < row["with_outliers"] < own[1]


def test_what_an_outlying_mixture_moves_is_given_with_and_without(tmp_path):
    """One of the seven runs of a family is far too bad: its curve moves, and EL by that curve."""
    dense = [("dense", 1.0, c, 1.7 + 1650 * c**-0.19) for c in np.geomspace(1e18, 1e22, 9)]
    mixtures = [
        ("moe", 0.03, c, (1.7 + 1650 * (3 * c) ** -0.19) * (1.2 if c == 3e21 else 1.0))
        for c in (3e18, 1e19, 3e19, 1e20, 3e20, 1e21, 3e21)
    ]  # fmt: skip
    runs = pd.DataFrame(dense + mixtures, columns=["kind", "A", "flops", "loss"])
    noise = np.exp(0.001 * np.random.default_rng(0).standard_normal(len(runs)))
    text = runs.assign(loss=runs["loss"] * noise).to_csv(index=False)
    record = told(tmp_path, text)
    (said,) = outlier_warnings(record)
    assert said.startswith("outlier: row 17 at 3e+21 FLOPs")
    top = record["estimators"][-1]
    assert top["compute"] == 1e21
    assert top["power curves, with outliers"] < 0.5 * top["power curves"]
    assert top["frontier"] == pytest.approx(3, rel=0.2)
    assert "frontier, with outliers" not in top or top["frontier, with outliers"] is None


@pytest.mark.parametrize("factor", [1.15, 0.9])
def test_one_of_five_mixtures_is_told_by_the_floor_of_the_dense_runs(factor):
    """Five points tell no floor of their own, and a straight line through them bends too much."""
    dense = pd.DataFrame({"is_moe": False, "compute": np.geomspace(1e18, 1e21, 8)})
    moe = pd.DataFrame({"is_moe": True, "compute": np.geomspace(2e18, 2e20, 5)})
    runs = pd.concat([dense, moe], ignore_index=True)
    equal = runs["compute"] * np.where(runs["is_moe"], 3.0, 1.0)
    noise = np.exp(0.003 * np.random.default_rng(2).standard_normal(len(runs)))
    runs = runs.assign(
        activation_ratio=np.where(runs["is_moe"], 0.03, 1.0), granularity=4.0, shared_ratio=0.0,
        loss=(1.7 + 1650 * equal**-0.19) * noise,
    )  # fmt: skip
    assert find_outliers(best_runs(runs)).empty
    odd = find_outliers(best_runs(with_fault(runs, 10, factor)))
    assert odd["compute"].tolist() == [runs.loc[10, "compute"]]


def test_an_outlier_of_dense_runs_alone_is_named_and_kept_from_their_curve(tmp_path):
    runs = small_families()
    runs = runs[runs["kind"] == "dense"].reset_index(drop=True)
    sound = told(tmp_path, runs.to_csv(index=False))
    record = told(tmp_path, with_fault(runs, 0, 1.3).to_csv(index=False))
    (said,) = outlier_warnings(record)
    assert said.startswith("outlier: row 2 at ")
    for name in ("dense_loss", "dense_loss_power"):
        fitted = record["fits"][name]
        assert fitted["num_points"] == sound["fits"][name]["num_points"] - 1
    assert record["fits"]["dense_loss_power"]["with_outliers"]


def test_all_seeds_of_an_outlier_are_kept_from_every_law():
    """A point is a mean of seeds, whose loss is that of none of them."""
    rows = [
        {"is_moe": False, "compute": 6 * size * tokens, "active_params": size, "num_tokens": tokens,
         "seed": seed, "loss": ChinchillaLaw(1.8, 480.0, 2000.0, 0.35, 0.37).evaluate(
             num_params=size, num_tokens=tokens) * (1 + 0.002 * seed)}
        for size in np.geomspace(1e7, 1e9, 8)
        for tokens in (20 * size,)
        for seed in range(2)
    ]  # fmt: skip
    runs = pd.DataFrame(rows).assign(activation_ratio=1.0, granularity=2.0, shared_ratio=0.0)
    false = runs["active_params"] == runs["active_params"].unique()[4]
    runs["loss"] = runs["loss"].where(~false, 1.3 * runs["loss"])
    odd = find_outliers(best_runs(runs))
    assert len(odd) == 1
    pd.testing.assert_frame_equal(without(runs, odd), runs[~false])


@pytest.mark.parametrize("fault", [{"loss": -1.0}, {"compute": np.nan}])
def test_only_what_a_table_cannot_tell_is_skipped(fault):
    """A value that no run can have is an error of whoever passes it, screened or not."""
    runs = all_runs()
    for few in (runs[runs["is_moe"]], runs[~runs["is_moe"]], runs[:0]):
        assert set(joint_law(few, resamples=5).skipped) == {"leverage"}
    for screen in (False, True):
        with pytest.raises(ValueError, match="must be positive and finite"):
            joint_law(runs.assign(**fault), resamples=5, screen=screen)
    with pytest.raises(ValueError, match="granularity, row 0"):
        joint_law(runs.assign(granularity=-runs["granularity"]), resamples=5)


def test_coefficients_that_an_outlier_moves_are_given_with_and_without(tmp_path):
    record = told(
        tmp_path, OUTLIER.replace("3.3698167485012647", "2.15")
    )  # those above it cost more
    assert any("outlier: row 6" in warning for warning in record["warnings"])
    fitted = record["fits"]["dense_loss_power"]
    assert fitted["with_outliers"]
    for name, value in fitted["with_outliers"].items():
        low, high = fitted["interval"][name]
        assert not low <= value <= high


def swept_runs():
    """Both families at seven budgets and seven rates, the best of which falls as C^-0.2."""
    rows = [
        {"is_moe": is_moe, "activation_ratio": 0.03 if is_moe else 1.0, "granularity": 4.0,
         "shared_ratio": 0.0, "compute": compute, "learning_rate": rate, "seed": 0,
         "loss": (0.95 if is_moe else 1.0) * 30 * compute**-0.05
         * np.exp(0.01 * np.log(rate / (20 * compute**-0.2)) ** 2)}
        for is_moe in (False, True)
        for compute in np.geomspace(1e18, 1e21, 7)
        for rate in 20 * compute**-0.2 * 2.0 ** np.arange(-3, 4)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_rate_that_a_false_loss_makes_the_best_is_kept_from_equation_3():
    runs = swept_runs()
    sound = examine(runs, resamples=50)
    assert not sound.with_outliers
    false = (~runs["is_moe"]) & np.isclose(runs["compute"], 1e21)
    place = runs[false]["learning_rate"].idxmax()
    runs.loc[place, "loss"] *= 0.7
    found = examine(runs, resamples=50)
    law, both = (which["dense_learning_rate"].law for which in (found.fits, found.with_outliers))
    assert law.exponent == pytest.approx(-0.2, abs=0.02)
    assert both.exponent > -0.1
    assert "learning_rate" in found.with_outliers  # of the mixtures, which have none: the same law
    assert found.with_outliers["learning_rate"].law.exponent == pytest.approx(-0.2, abs=0.02)


def test_no_outlier_is_found_among_sound_runs(tmp_path):
    sound = OUTLIER.replace("3.3698167485012647", "2.6025")
    record = told(tmp_path, sound)
    assert not any("outlier" in warning for warning in record["warnings"])
    assert not any(fit["with_outliers"] for fit in record["fits"].values())


def test_a_floor_that_is_not_identified_has_no_interval(tmp_path):
    record = told(tmp_path, DEGENERATE_FLOOR)
    fitted = record["fits"]["dense_loss"]
    assert fitted["identified"]["floor"] == "not identified"
    assert fitted["interval"]["floor"] is None
    for fit in record["fits"].values():
        for ends in fit["interval"].values():
            assert ends is None or ends[0] < ends[1]


def test_every_synonym_is_read_as_its_quantity():
    for ours, tiers in SYNONYMS.items():
        for name in sum(tiers, ()):
            cells = pd.DataFrame({name: ["moe" if ours == "is_moe" else "3"]})
            extra = {} if ours == "loss" else {"loss": [3.0]}
            extra |= {} if ours in ("num_tokens", "compute") else {"num_tokens": [1e9]}
            found = guess_map(cells.assign(**extra)).columns
            assert found.get(ours) == name, (ours, name, found)


def test_n_tokens_is_the_number_of_tokens(tmp_path):
    text = (
        "kind,A,G,n_tokens,active_params,eval_loss\ndense,1,2,1e9,1e8,3.1\nmoe,.03,4,1e9,1e8,2.9\n"
    )
    assert read(tmp_path, text).runs["num_tokens"].tolist() == [1e9, 1e9]


def test_leverage_needs_neither_a_nor_g(tmp_path):
    record = told(tmp_path, NO_AXES)
    assert len(record["leverage"]) == 3
    assert all(row["efficiency_leverage"] > 1 for row in record["leverage"])
    assert record["leverage"][0]["activation_ratio"] is None
    assert record["skipped"]["joint"] == "activation_ratio: not in the table"


def test_mixtures_alone_have_their_curve_and_say_what_is_lacking(tmp_path):
    record = told(tmp_path, MIXTURES)
    assert {"moe_loss", "moe_loss_power"} <= set(record["fits"])
    assert record["leverage"] == []
    assert "without dense runs there is no leverage" in record["answer"][0]


def test_blanks_around_separators_are_no_values(tmp_path):
    text = (
        "kind, A, G, flops, loss, status\ndense, , , 1e18, 3.5, ok\ndense, , , 1e19, 3.1, ok\n"
        "moe, 0.03, 4, 1e18, 3.3, ok\n"
    )
    runs = read(tmp_path, text).runs
    assert runs["is_moe"].tolist() == [False, False, True]
    assert runs["activation_ratio"].tolist() == [1.0, 1.0, 0.03]


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ("loss,val_loss", ("loss", "val_loss", "--column loss=")),
        ("loss,smooth loss", ("loss", "smooth loss")),
        ("loss,C,C_6ND", ("compute", "C_6ND")),
    ],
)
def test_a_doubt_names_every_candidate_and_offers_a_choice(tmp_path, header, named):
    names = header.split(",")
    values = ["3" if "loss" in name else "1e18" for name in names]
    other = [str(float(v) * (1 + i / 10)) for i, v in enumerate(values)]
    with pytest.raises(ValueError, match="could all be it") as refused:
        read(tmp_path, f"{header},flopz,A,G\n{','.join(other)},1,1,2\n")
    for name in named:
        assert name in str(refused.value)


def test_training_flops_of_a_token_are_told_by_their_size_or_asked_about(tmp_path):
    text = "loss,M,D,kind{}\n3,6.6e8,2e9,dense{}\n2.9,6.6e8,2e9,moe{}\n"
    table = read(tmp_path, text.format(",Na", ",1e8", ",1e8"))
    np.testing.assert_allclose(table.runs["compute"], 6.6e8 * 2e9)
    with pytest.raises(ValueError, match="forward or training\\?"):
        read(tmp_path, text.format("", "", ""))
    told_so = read(tmp_path, text.format("", "", ""), units=("flops_per_token=training",))
    np.testing.assert_allclose(told_so.runs["compute"], 6.6e8 * 2e9)


def test_perplexity_and_bits_per_byte_are_recognised_or_asked_about(tmp_path):
    text = "{},flops,kind\n20.1,1e18,dense\n18.2,1e18,moe\n"
    np.testing.assert_allclose(
        read(tmp_path, text.format("ppl")).runs["loss"], np.log([20.1, 18.2])
    )
    with pytest.raises(ValueError, match="a perplexity\\? say --unit loss=perplexity"):
        read(tmp_path, text.format("loss"))
    table = read(tmp_path, "val_bpb,flops,kind\n0.9,1e18,dense\n0.8,1e18,moe\n")
    assert table.mapping.units["loss"] == "bits per byte"


def over_trained(seed=0, ratio=200.0, sigma=0.002):
    """Dense runs at many tokens a parameter, mixtures with the loss that 3 times their C buys."""
    law = ChinchillaLaw(1.82, 482.0, 2085.0, 0.3478, 0.3658)
    generator = np.random.default_rng(seed)
    rows = []
    for size in np.geomspace(5e7, 2e9, 6):
        for factor in (0.4, 1.0, 2.5):
            tokens = ratio * factor * size
            loss = law.evaluate(num_params=size, num_tokens=tokens)
            rows.append(("dense", size, tokens, 6 * size * tokens, loss))
    for compute in np.geomspace(1e19, 1e21, 4):
        sizes = np.geomspace(1e7, 1e11, 4001)
        best = law.evaluate(num_params=sizes, num_tokens=3 * compute / (6 * sizes)).min()
        rows.append(
            ("moe", np.sqrt(compute / 120), compute / 6 / np.sqrt(compute / 120), compute, best)
        )
    table = pd.DataFrame(rows, columns=["kind", "active_params", "tokens", "flops", "loss"])
    return table.assign(loss=table["loss"] * np.exp(sigma * generator.standard_normal(len(table))))


def test_dense_runs_far_from_their_optimum_are_held_against_it(tmp_path):
    record = told(tmp_path, over_trained().to_csv(index=False))
    assert "not compute-optimal" in record["warnings"][0]
    for row in record["leverage"]:
        low, high = row["over_optimum_interval"]
        assert low < row["over_optimum"] < high
        assert row["over_optimum"] == pytest.approx(3.0, rel=0.2)
        if row["efficiency_leverage"] is not None:
            assert row["efficiency_leverage"] > 1.25 * 3
    assert "over the optimum of your dense runs" in record["answer"][0]


@pytest.mark.slow
def test_intervals_over_the_optimum_hold_the_truth_nine_times_in_ten():
    """Of 240 intervals of 60 tables 91 % did; a table with one miss among four points is common."""
    held = []
    for seed in range(20):
        table = over_trained(seed).rename(columns={"tokens": "num_tokens", "flops": "compute"})
        dense, moe = (part for _, part in table.groupby("kind"))
        envelope = fit_envelope(dense, resamples=200, seed=seed)
        sigma, freedom = envelope.noise
        ends = envelope.interval(np.log(moe["loss"].to_numpy()), sigma * student_ratio(freedom))
        truth = np.log(3.0 * moe["compute"].to_numpy())
        held += list((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
    assert 0.8 <= np.mean(held) <= 0.99


def test_dense_runs_of_one_odd_ratio_are_warned_of_by_another_law(tmp_path):
    table = over_trained()
    ratio = table["tokens"] / table["active_params"]
    table = table[(table["kind"] == "moe") | ratio.between(150, 250)]
    record = told(tmp_path, table.to_csv(index=False))
    assert "200 tokens a parameter, far from the usual 20" in record["warnings"][0]


def test_dominated_dense_points_are_dropped_from_curves(tmp_path):
    worse = NO_AXES.replace("dense,3e18,3.25", "dense,3e18,3.55")
    table = read(tmp_path, worse)
    found = examine(table.runs, resamples=50)
    assert len(found.fits["dense_loss_power"].log_target) == 3
    assert any("row 3" in warning and "dominated" in warning for warning in found.warnings)
