"""Public leverages are derived again from files of the same columns; laws are scored on them."""

import gzip
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from moe_leverage.audit import decide, load_claims
from moe_leverage.cli import app
from moe_leverage.cli import evidence as _evidence  # noqa: F401
from moe_leverage.evidence import scores
from moe_leverage.evidence.derive import check
from moe_leverage.evidence.sources import (
    EVIDENCE,
    Point,
    find_source,
    points_table,
    read_source,
    sources,
)
from moe_leverage.theory.forms import DENSE, SizeAndTokensLoss
from moe_leverage.theory.frontier import optimum

LAW = SizeAndTokensLoss(a=400.0, alpha=0.34, b=1200.0, beta=0.31, c=1.7)
LEVERAGE = 2.5  # of the made-up mixtures
LENGTH = 2048


def swept(tmp_path):
    """Two files of the columns of Step law: every cell's best loss is LAW's, mixtures save 2.5."""
    rng = np.random.default_rng(0)
    dense, moe = [], []
    for h, layers in [(512, 8), (768, 12), (1024, 16), (1280, 20), (1536, 24)]:
        params = 12 * h * h * layers
        size = params + 2 * layers * LENGTH * h
        for tokens in (2e9, 5e9, 2e10, 6e10):
            best = float(LAW.loss(DENSE, size, tokens))
            dense += [
                {"h": h, "numl": layers, "N": params, "D": tokens, "lr": lr, "bs": 64,
                 "smooth loss": best + worse}
                for lr, worse in zip((1e-3, 2e-3, 4e-3), (0.05, 0.0, rng.uniform(0, 0.1)),
                                     strict=True)
            ]  # fmt: skip
    h, layers, expert = 1024, 16, 256
    active = layers * (4 * h * h + 3 * h * (expert + expert))
    for tokens in (2e9, 4e9, 2e10):
        compute = (6 * active + 12 * layers * LENGTH * h) * tokens
        best = optimum(LAW, DENSE, LEVERAGE * compute).loss_nats
        moe += [
            {"nume": 89, "topk": 1, "moeh": expert, "sed": expert, "h": h, "numl": layers,
             "D": tokens, "M": 0, "lr": lr, "bs": 64, "smooth loss": best + worse}
            for lr, worse in ((1e-3, 0.0), (2e-3, 0.04))
        ]  # fmt: skip
    paths = tmp_path / "moe.csv", tmp_path / "dense.csv"
    for path, rows in zip(paths, (moe, dense), strict=True):
        pd.DataFrame(rows).to_csv(path, index=False)
    computes = [(6 * active + 12 * layers * LENGTH * h) * tokens for tokens in (2e9, 4e9, 2e10)]
    return list(paths), computes


def made_up(name, layout, computes, leverage=(LEVERAGE, LEVERAGE)):
    points = tuple(
        Point(layout=layout, activation_ratio=0.02, granularity=8.0, compute=c, leverage=leverage)
        for c in computes
    )
    return replace(find_source(name), points=points)


def test_the_leverage_of_swept_cells_is_found_again(tmp_path):
    files, computes = swept(tmp_path)
    found = check(made_up("step-law", "1 in 89", computes), files)
    assert found["derived_low"].between(0.97 * LEVERAGE, LEVERAGE * 1.001).all()
    assert found["derived_high"].between(LEVERAGE * 0.999, 1.03 * LEVERAGE).all()
    other = check(made_up("step-law", "1 in 89", computes, (1.3, 1.4)), files)
    assert not other["agrees"].any()


def curves(tmp_path, kind="S-BASE"):
    """A file of the columns of the routed models: mixtures equal dense models thrice as large."""
    rows = []
    for size in (15e6, 55e6, 130e6, 370e6, 1.3e9):
        rows += [
            {"num_experts": experts, "router_type": kind if experts > 1 else "dense", "k": 1,
             "flops_per_step": 1e12, "step": step, "loss_validation": loss + late,
             "dense_parameter_count": size, "routing_frequency": often, "flop_increase": wide}
            for experts, loss, often, wide in (
                (1, 10 * size**-0.07, 0.5, 1), (64, 10 * (3 * size) ** -0.07, 0.5, 1),
                (1, 8 * size**-0.07, 0.5, 4), (64, 8 * size**-0.07, 1.0, 1),
            )
            for step, late in ((250_000, 0.0), (1000, 2.0))
        ]  # fmt: skip
    path = tmp_path / "curves.csv.gz"
    path.write_bytes(gzip.compress(pd.DataFrame(rows).to_csv(index=False).encode()))
    return path


def test_the_leverage_of_final_losses_is_found_again(tmp_path):
    computes = [6 * size * 130e9 for size in (15e6, 370e6)]
    source = made_up("routing", "64 experts", computes, (3.0, 3.0))
    found = check(source, [curves(tmp_path)])
    assert found["derived_low"].between(2.7, 3.01).all()
    assert found["derived_high"].between(2.99, 3.3).all()
    assert found["agrees"].all()
    with pytest.raises(ValueError, match=r"has no run with k = 1"):
        check(source, [curves(tmp_path, kind="HASH")])


LADDER = """# A ladder

Words before it.

| size | variant | active | tokens | FLOPs | Paloma loss |
|---|---|---:|---:|---:|---:|
| a | dense | 1M | 1B | 1e17 | 4.0 |
| b | dense | 2M | 2B | 1e18 | 3.2 |
| c | dense | 4M | 4B | 1e19 | 2.8 |
| a | moe | 1M | 1B | 1e17 | 3.2 |
| b | moe | 2M | 2B | 2e19 | 2.5 |
"""


def test_the_leverage_of_rungs_is_found_again_and_is_a_bound_beyond_them(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(LADDER)
    source = made_up("marin", "8 of 384", [1e17], (10.0, 10.0))
    assert check(source, [path])["agrees"].all()
    bound = made_up("marin", "8 of 384", [2e19], (0.5, math.inf))
    assert check(bound, [path])["agrees"].all()
    missing = made_up("marin", "8 of 384", [7e17], (10.0, 10.0))
    assert not check(missing, [path])["agrees"].any()


def test_the_command_says_whether_a_copy_agrees(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(LADDER)
    done = CliRunner().invoke(app, ["evidence", "check", "marin", str(path), "--json"])
    assert done.exit_code == 1
    rows = json.loads(done.output)
    assert len(rows) == 4
    assert not any(row["agrees"] for row in rows)


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        (
            "README.md",
            "| a | b |\n|---|---|\n| 1 | 2 |\n",
            "holds no table with a column of losses",
        ),
        ("table.csv", "variant,FLOPs\ndense,1\n", "need Paloma loss, and once"),
        ("table.csv", "", "is not a table"),
        ("table.csv", "variant,FLOPs,Paloma loss\nmoe,1e18,3\n", "needs two rungs or more"),
    ],
)
def test_a_file_that_is_none_is_answered(tmp_path, name, text, answer):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=r".") as caught:
        check(find_source("marin"), [path])
    assert answer in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (
            ["check", "nosuch", "x.csv"],
            "source = 'nosuch': must be one of marin, routing, step-law",
        ),
        (["check", "step-law", "x.csv"], "needs 2, in this order"),
        (["check", "routing", "x.csv"], "is not a file"),
    ],
)
def test_a_mistake_is_named(arguments, answer):
    done = CliRunner().invoke(app, ["evidence", *arguments])
    assert isinstance(done.exception, ValueError)
    assert answer in str(done.exception)


@pytest.mark.parametrize(
    ("old", "new", "answer"),
    [
        ('basis = "own optimum"', 'basis = "luck"', "basis = 'luck': must be"),
        ("granularity = 8.0\n", "", "point.granularity = None: is required"),
        ("leverage = [1.27, 1.33]", "leverage = [1.33, 1.27]", "must be [at least, at most]"),
        ('title = "Step law"', 'title = "Step law"\nage = 3', "age = 3: is not known"),
    ],
)
def test_a_mistake_in_a_source_is_named(tmp_path, old, new, answer):
    text = (EVIDENCE / "step-law.toml").read_text()
    assert old in text
    path = tmp_path / "step.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=r".") as caught:
        read_source(path)
    assert answer in str(caught.value)


def test_every_source_says_where_its_runs_lie():
    for source in sources():
        assert source.repository.count("/") == 1
        assert len(source.commit) == 7
        assert all((source.licence, source.accounting, source.caveat, source.points))
    table = points_table()
    assert (table["low"] <= table["high"]).all()
    assert table["compute"].between(1e17, 1e21).all()


def test_our_own_points_are_those_of_balanced_routers():
    points = scores.our_points()
    assert len(points) > 20
    assert points["compute"].max() < scores.BETWEEN < points_table()["compute"].min()


@pytest.mark.parametrize(
    ("value", "error"), [(1.0, math.log(0.5)), (2.5, 0.0), (8.0, math.log(2.0)), (math.nan, None)]
)
def test_an_error_is_the_distance_to_the_range(value, error):
    found = scores.off(value, 2.0, 4.0)
    assert math.isnan(found) if error is None else found == pytest.approx(error)


def test_sources_weigh_the_same_and_few_of_them_are_unsure():
    points = pd.DataFrame({
        "source": ["a"] * 9 + ["b"], "layout": ["x"] * 9 + ["y"], "error": [0.1] * 9 + [0.5],
    })  # fmt: skip
    centre, low, high = scores.interval(points, scores.mean_error)
    assert centre == pytest.approx(0.3)
    assert low < 0.1 < 0.5 < high
    assert scores.interval(points[:9], scores.mean_error) == (
        pytest.approx(0.1),
        -math.inf,
        math.inf,
    )
    many = pd.concat([points.assign(source=points["source"] + str(i)) for i in range(20)])
    _, low, high = scores.interval(many.reset_index(drop=True), scores.mean_error)
    assert 0.2 < low < 0.3 < high < 0.4


def test_every_law_is_scored_in_every_range_it_answers():
    table = scores.score_table()
    laws = set(table["law"])
    assert {"tian-2025", "ludziejewski-2025", "clark-2022-s-base"} <= laws
    assert "zhao-2025" not in laws
    assert (table["factor"] >= 1).all()
    assert (table["factor_low"] <= table["factor"]).all()
    assert (table["factor"] <= table["factor_high"]).all()
    public = table[table["range"] == scores.PUBLIC].set_index("law")
    assert set(public["points"]) == {len(points_table())}


def test_the_registered_statistics_are_what_they_say():
    slope, *_ = scores.statistic("slope_in_compute")
    per_layout = []
    for (source, _), group in points_table().groupby(["source", "layout"]):
        finite = group[np.isfinite(group["high"])]
        if source != "routing" and len(finite) > 1:
            x, y = np.log(finite["compute"]), np.log(scores.middle(finite))
            per_layout.append(np.polyfit(x, y, 1)[0])
    assert min(per_layout) < slope < max(per_layout)
    claims = [claim for claim in load_claims() if claim.check["name"] == "public"]
    assert {claim.arguments["statistic"] for claim in claims} == set(scores.STATISTICS)
    for claim in claims:
        found = decide(claim)
        assert found.label == "not decided"  # nobody's gates judge the runs of others
        assert "public runs" in found.detail


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (LADDER.replace("1e18", "1e400"), "FLOPs = 'inf': row 1: must be a number above 0"),
        (LADDER.replace("| 2.5 |", "| x |"), "Paloma loss = 'x': row 4: must be a number above 0"),
        (LADDER.replace("| 3.2 |", "| -3.2 |"), "must be a number above 0"),
        (LADDER.replace("| dense |", "| 1 |").replace("| moe |", "| 2 |"), "needs two rungs"),
    ],
)
def test_a_number_that_is_none_is_named_with_its_row(tmp_path, text, answer):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match=r".") as caught:
        check(find_source("marin"), [path])
    assert answer in str(caught.value)


def test_a_damaged_file_is_named(tmp_path):
    path = curves(tmp_path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="is not a table"):
        check(find_source("routing"), [path])
