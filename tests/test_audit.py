"""The audit: known verdicts checked by hand, the rule that judges, and the twelve leads."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from moe_leverage import paper
from moe_leverage.audit import (
    LABELS,
    Verdict,
    audit,
    counts,
    html_table,
    load_claims,
    load_neighbours,
    load_statements,
    table,
)
from moe_leverage.audit import questions_law as leads_law
from moe_leverage.audit.checks import average, expression, parameters
from moe_leverage.audit.claims import (
    CHECKS,
    KINDS,
    Claim,
    Finding,
    Measurement,
    allowance,
    check,
    run_check,
)
from moe_leverage.audit.listed import listed
from moe_leverage.audit.questions import lead, leads
from moe_leverage.audit.trends import STATISTICS
from moe_leverage.page import chapter
from moe_leverage.paths import DATA
from moe_leverage.studies.catalogue import STUDIES
from moe_leverage.theory.laws import PUBLISHED
from moe_leverage.theory.rounding import half_unit

# Decided by hand from the printed tables, each with the arithmetic that decides it.
BY_HAND = {
    "table4-overall-dense": "reproduced",  # 1496.9 / 34 = 44.03
    "table4-overall-moe": "reproduced",  # 1548.5 / 34 = 45.54
    "table4-professional-dense": "consistent",  # 264.4 / 6 = 44.07, printed 44.0
    "table4-overall-categories-dense": "discrepant",  # 238.8 / 5 = 47.8
    "humaneval-plus-16": "reproduced",  # 51.8 - 35.4 = 16.4
    "majority": "reproduced",  # 25 of 34
    "deepseekmoe-2.5x": "reproduced",  # 7 / 2.8
    "hp-a-7.8": "discrepant",  # 5 / 65 = 7.69 %
    "hp-a-7.8-other": "reproduced",  # 5 / 64 = 7.81 %
    "a-range-low": "discrepant",  # 3 / 257 = 1.17 %
    "ling-g-12": "discrepant",  # 2 x 2048 / 384 = 10.67
    "ling-a-3.4": "reproduced",  # 13 / 385 = 3.38 %
    "table1-exponents-dense": "reproduced",  # 0.5422 + 0.4578
    "table1-product-dense": "consistent",  # 0.0655 x 15.2582 = 0.9994
    "compute-7x-active": "reproduced",  # 6.11 / 0.85 = 7.19
    "table3-dense-total": "reproduced",
    "d-sign": "discrepant",  # printed -7.61e-2
    "s-16.7-listed": "discrepant",  # no row of Table 9 has 2 of 12
    "s-constant-active": "discrepant",  # 11 + 2
    "dense-first-width": "discrepant",  # 4096 / (3 x 1024) = 1.33
    "table11-eta": "discrepant",  # 9.5e-3 against 9.5e-4
    "tables-eta-agree": "reproduced",
    "table6-total": "reproduced",
    "loss-gap": "not checkable",
    "dense-eta": "not checkable",
}


@pytest.fixture(scope="module")
def verdicts() -> tuple[Verdict, ...]:
    return audit()


def test_every_claim_has_a_verdict(verdicts: tuple[Verdict, ...]) -> None:
    assert {verdict.label for verdict in verdicts} <= set(LABELS)
    assert len(verdicts) == len(load_claims())
    own = [verdict for verdict in verdicts if not verdict.claim.reading_of]
    assert len(own) == sum(counts(verdicts).values()) >= 120


def test_verdicts_decided_by_hand(verdicts: tuple[Verdict, ...]) -> None:
    found = {verdict.claim.id: verdict.label for verdict in verdicts}
    assert {name: found[name] for name in BY_HAND} == BY_HAND


def test_no_verdict_without_its_reason(verdicts: tuple[Verdict, ...]) -> None:
    for verdict in verdicts:
        if verdict.label == "discrepant":
            assert verdict.claim.matters, verdict.claim.id
        if verdict.label == "not checkable":
            assert verdict.detail.startswith("needs "), verdict.claim.id
        if isinstance(verdict.found, Measurement):
            assert verdict.detail, verdict.claim.id
            is_held = bool(verdict.found.gates) and verdict.value is not None
            is_held = is_held and not verdict.found.is_of_another_scale
            assert (verdict.label == "not decided") == is_held, verdict.claim.id
            is_elsewhere = verdict.label == "not at this scale"
            assert is_elsewhere == verdict.found.is_of_another_scale, verdict.claim.id
            is_judged = verdict.label.startswith("measured: ")
            assert is_held or is_elsewhere or is_judged, verdict.claim.id
            assert all(gate in verdict.detail for gate in verdict.found.gates), verdict.claim.id


def test_claims_are_well_formed() -> None:
    claims = load_claims()
    names = Counter(claim.id for claim in claims)
    assert max(names.values()) == 1
    assert {claim.kind for claim in claims} == set(KINDS)
    for claim in claims:
        assert re.fullmatch(r"\d\d-[a-z-]+", claim.chapter), claim.id
        assert not claim.reading_of or claim.reading_of in names, claim.id
        assert claim.says[-1] != ".", claim.id
        assert re.search(r"Abstract|Section|Table|Tables|Eq|Fig|Appendix", claim.locator), claim.id


def test_measured_claims_are_registered() -> None:
    for claim in load_claims():
        is_measured = claim.check["name"] in ("measured", "fitted", "public")
        assert is_measured == (claim.region is not None), claim.id
        if claim.region is None:
            continue
        low, high = claim.region
        assert low < high, claim.id
        if claim.check["name"] in ("fitted", "public"):
            continue
        assert claim.arguments["statistic"] in STATISTICS, claim.id
        study = claim.arguments["study"]
        assert {study} <= set(STUDIES) if isinstance(study, str) else set(study) <= set(STUDIES), (
            claim.id
        )


def test_every_check_decides_some_claim() -> None:
    known = (*load_claims(), *load_statements(), *load_neighbours())
    used = {claim.check["name"] for claim in known}
    assert set(CHECKS) == used - {"unavailable"}


def test_a_check_is_found_and_its_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_leverage.audit.claims.CHECKS", {})

    @check
    def doubled(half: float) -> Finding:
        return Finding(value=2 * half)

    assert run_check(claim(check={"name": "doubled", "half": 3.0})) == Finding(value=6.0)
    with pytest.raises(ValueError, match=r"x\.check = 'halved': must be one of doubled"):
        run_check(claim(check={"name": "halved"}))
    with pytest.raises(ValueError, match=r"x\.check = {'half': 1, 'third': 2}: got an unexpected"):
        run_check(claim(check={"name": "doubled", "half": 1, "third": 2}))
    with pytest.raises(ValueError, match=r"x\.check = {}: missing a required argument: 'half'"):
        run_check(claim(check={"name": "doubled"}))
    with pytest.raises(ValueError, match=r"check = 'doubled': is already the name of a check"):
        check(doubled)


def claim(**fields: object) -> Claim:
    base = {"id": "x", "locator": "Section 1", "says": "s", "kind": "law"}
    base |= {"chapter": "07-joint-law", "check": {"name": "measured"}}
    return Claim(**{**base, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("published", "relation", "value", "uncertainty", "label"),
    [
        ("55.8", "equals", 55.84, 0.0, "reproduced"),
        ("55.8", "equals", 55.85, 0.0, "reproduced"),
        ("55.8", "equals", 55.88, 0.05, "consistent"),
        ("55.8", "equals", 55.91, 0.05, "discrepant"),
        ("2.93e-4", "equals", 2.934e-4, 0.0, "reproduced"),
        ("2.93e-4", "equals", 2.94e-4, 0.0, "discrepant"),
        ("7", "above", 7.01, 0.0, "reproduced"),
        ("7", "above", 6.95, 0.1, "consistent"),
        ("7", "above", 6.8, 0.1, "discrepant"),
        ("8 to 12", "between", 12.0, 0.0, "reproduced"),
        ("-11 to -9", "between", -8.9, 0.0, "discrepant"),
        ("", "holds", 0.0, 0.0, "discrepant"),
    ],
)
def test_rule_of_verdicts(
    published: str, relation: str, value: float, uncertainty: float, label: str
) -> None:
    finding = Finding(value=value, uncertainty=uncertainty)
    assert claim(published=published, relation=relation).judge(finding) == label


@pytest.mark.parametrize(
    ("effect", "low", "high", "label"),
    [
        (9.0, 8.5, 11.0, "measured: agrees"),
        (9.0, 7.0, 11.0, "measured: cannot tell"),
        (5.0, 4.0, 7.9, "measured: disagrees"),
        (15.0, 12.1, 20.0, "measured: disagrees"),
        (None, -math.inf, math.inf, "measured: cannot tell"),
    ],
)
def test_rule_of_measured_verdicts(
    effect: float | None, low: float, high: float, label: str
) -> None:
    found = Measurement(effect=effect, low=low, high=high)
    assert claim(region=(8.0, 12.0)).judge(found) == label


def test_a_coefficient_of_another_scale_is_not_judged_whatever_its_gates_say() -> None:
    near = Measurement(effect=9.0, low=8.5, high=9.5, is_of_another_scale=True)
    assert claim(region=(8.0, 12.0)).judge(near) == "not at this scale"
    held = replace(near, gates=("tuned",), effect=None)
    assert claim(region=(8.0, 12.0)).judge(held) == "not at this scale"


def test_an_effect_is_not_decided_while_a_gate_fails() -> None:
    found = Measurement(effect=9.0, low=8.5, high=9.5, gates=("tuned",))
    assert claim(region=(8.0, 12.0)).judge(found) == "not decided"


def test_a_word_allows_every_claim_the_same() -> None:
    """No claim of the paper grants itself a tolerance: only a word does, and its size is fixed."""
    text = (DATA / "paper" / "claims.toml").read_text(encoding="utf-8")
    for entry in tomllib.loads(text)["claim"]:
        assert not {"tolerance", "because"} & set(entry), entry["id"]
    assert allowance("about", "12")["tolerance"] == pytest.approx(1.2)
    assert allowance("constant", "0.0")["tolerance"] == 1.0
    with pytest.raises(ValueError, match="word = 'roughly': must be one of about, constant"):
        allowance("roughly", "12")


def test_rounding_speaks_before_a_verdict(verdicts: tuple[Verdict, ...]) -> None:
    """6.98 for "above 7" is what some law that rounds to Table 2 gives; 6.05 is not."""
    found = {verdict.claim.id: verdict for verdict in verdicts}
    assert found["ling-el-7"].value < 7
    assert found["ling-el-7"].label == "consistent"
    assert found["el-3.1-own-definition"].label == "discrepant"
    moved = found["overtrained-3x-table8"]
    assert moved.label == "consistent"
    assert isinstance(moved.found, Finding)
    assert moved.found.uncertainty == pytest.approx(moved.value / 4)  # 2e18 may be 2.5e18


def test_a_malformed_claim_is_named() -> None:
    with pytest.raises(ValueError, match=r"x\.kind = 'guess': must be one of"):
        claim(kind="guess")
    with pytest.raises(ValueError, match=r"x\.tolerance = 1\.0: needs a reason"):
        claim(tolerance=1.0)


def test_half_unit_reads_the_printed_digits() -> None:
    assert half_unit("44.0") == pytest.approx(0.05)
    assert half_unit("5.28e+16") == pytest.approx(5e13)
    assert half_unit("98") == 0.5


def test_expression_propagates_rounding() -> None:
    found = expression("a - b", {"a": [4, "HumanEval-Plus", "ling_mini_beta_score"],
                                 "b": [4, "HumanEval-Plus", "dense_6_1b_score"]})  # fmt: skip
    assert found.value == pytest.approx(16.4)
    assert found.uncertainty == pytest.approx(0.1)
    exact = expression("a + b", {"a": [9, 0, "num_active_experts"],
                                 "b": [9, 0, "num_shared_experts"]})  # fmt: skip
    assert (exact.value, exact.uncertainty) == (12.0, 0.0)


@pytest.mark.parametrize("formula", ["__import__('os')", "a", "2 if 1 else 3", "(1).real", "'a'"])
def test_expression_is_arithmetic_only(formula: str) -> None:
    with pytest.raises(ValueError, match="only"):
        expression(formula)


def test_checks_refuse_what_the_paper_has_not() -> None:
    with pytest.raises(ValueError, match="category = 'Vision': is not in Table 4"):
        average("Vision", "dense_6_1b_score")
    with pytest.raises(ValueError, match="model = 'GPT': must be one of"):
        parameters("GPT", "total")
    with pytest.raises(ValueError, match="table 4 row = 'Average': stands in 5 rows"):
        expression("a", {"a": [4, "Average", "dense_6_1b_score"]})


def test_listed_models_carry_their_costs() -> None:
    seven = listed(7)
    assert len(seven) == 48
    # 22 layers of (2.4 attention + 3 x 257 expert) d^2 and a router, by hand: 27.88 billion.
    by_hand = 22 * (1280**2 * (2.4 + 3 * 257) + 256 * 1280 + 2 * 1280) + 1280
    assert seven["total_params"].iloc[-1] == by_hand
    assert (listed(8)["printed_attention_share"] < listed(8)["attention_share"]).any()


def test_leads_are_settled() -> None:
    found = leads()
    assert [entry.number for entry in found] == list(range(1, 13))
    for entry in found:
        assert len(entry.table) > 0
        assert len(entry.paragraph) > 200
        assert "nan" not in entry.paragraph
        assert entry.question.endswith("?")
    with pytest.raises(ValueError, match="lead = 13: must be from 1 to 12"):
        lead(13)


def test_answers_of_the_leads() -> None:
    (kept,) = lead(1).table.query("agrees").to_dict("records")
    assert (kept["base_of_compute"], kept["base_of_granularity"]) == ("10", "2")
    assert lead(2).table["as_described"].max() < 1e-3
    three = lead(5).table.query("forward_passes_in_m == 'three in both'")
    assert three["median"].between(3, 5).all()
    spreads = lead(6).table["spread_of_m_percent"]
    assert spreads.idxmin() == 0
    assert spreads[0] == pytest.approx(100 * 0.0023, rel=0.02)  # as the claim has it
    ratios = lead(8).table["batch_ratio"]
    assert ratios.max() / ratios.min() < 1.05
    rates = lead(8).table["rate_ratio"]
    assert rates.max() / rates.min() > 1.8
    counts_of_layers = lead(12).table.set_index("model")["total_billions"]
    assert round(counts_of_layers["Ling-mini-beta, 1 dense"], 1) == 17.5


def test_html_table_can_be_filtered(verdicts: tuple[Verdict, ...]) -> None:
    page = html_table(verdicts)
    assert page.count("<tr id=") == len(verdicts)
    assert page.count("data-verdict=") == page.count("data-kind=") == len(verdicts)
    assert 'id="claim-ling-g-12"' in page
    assert "(E_a + E_s)" in page
    assert table(verdicts)["detail"].map(len).max() < 900


def test_command_line_prints_json() -> None:
    command = [sys.executable, "-m", "moe_leverage", "audit", "--json", "--leads"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert len(found["claims"]) == len(load_claims())
    assert all(entry["verdict"] in LABELS for entry in found["claims"])
    assert len(found["leads"]) == 12
    assert len(found["statements"]) == len(load_statements()) >= 20
    assert all(entry["law"] for entry in found["statements"])
    assert sum(found["counts"].values()) >= 120
    assert len(found["neighbours"]) == len(load_neighbours())
    assert all(entry["paper"] for entry in found["neighbours"])


def test_command_line_names_a_bad_verdict() -> None:
    command = [sys.executable, "-m", "moe_leverage", "audit", "--verdict", "maybe"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "verdict = 'maybe': must be one of reproduced" in done.stderr
    assert "Traceback" not in done.stderr


def test_laws_and_tables_print_the_same_coefficients() -> None:
    from moe_leverage.theory.laws import PUBLISHED

    row = paper.table(2).loc[0]
    for name in ("a", "d", "gamma", "beta", "a_start", "a_max"):
        assert getattr(PUBLISHED.joint, name) == row[name]
    dense, moe = paper.table(1).to_dict("records")
    for record, model, tokens in (
        (dense, PUBLISHED.dense_model, PUBLISHED.dense_tokens),
        (moe, PUBLISHED.moe_model, PUBLISHED.moe_tokens),
    ):
        assert (model.coefficient, model.exponent) == (
            record["model_coefficient"], record["model_exponent"])  # fmt: skip
        assert (tokens.coefficient, tokens.exponent) == (
            record["tokens_coefficient"], record["tokens_exponent"])  # fmt: skip


def test_an_edited_coefficient_leaves_the_bases_open_instead_of_failing(monkeypatch):
    edited = SimpleNamespace(joint=replace(PUBLISHED.joint, a=1.33))
    monkeypatch.setattr(leads_law, "PUBLISHED", edited)
    table, text = leads_law.logarithm_bases()
    assert len(table) == 9
    assert text.startswith("0 of the nine pairs")


def test_a_chapter_counts_other_readings_of_claims_apart(monkeypatch):
    said = []
    monkeypatch.setattr(chapter, "display", lambda bundle, raw: said.append(bundle["text/plain"]))
    for name in ("15-public-runs", "02-hyperparameter-laws"):
        chapter.verdicts(name)
    assert said[0].startswith("Claims that belong to this chapter: 4 in another reading (")
    assert " of the paper (" in said[1]
    assert said[1].endswith("1 in another reading (1 reproduced).")


def test_a_line_on_our_runs_says_whether_their_gates_fail(monkeypatch):
    said = []
    monkeypatch.setattr(chapter, "say", said.append)
    for shut in ((), ("tuned", "control")):
        monkeypatch.setattr(chapter, "failing_gates", lambda studies, shut=shut: shut)
        chapter.standing("tuning")
    assert "gates" not in said[0]
    assert "decide nothing while gates of theirs fail: tuned, control;" in said[1]


def test_a_region_without_an_end_is_said_as_above_or_below():
    regions = {c.id: c.region for c in load_claims() if c.region and math.inf in map(abs, c.region)}
    rows = table(tuple(Verdict(claim=c, label="not decided", found=None, detail="")
                       for c in load_claims() if c.id in regions))  # fmt: skip
    assert len(regions) > 5
    for name, (low, high) in regions.items():
        end = f"above {low:g}" if math.isfinite(low) else f"below {high:g}"
        assert rows.loc[name, "published"].endswith(f"registered: {end}")
