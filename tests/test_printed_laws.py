"""Other groups' laws: each returns its paper's statements and answers, or says why it does not."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from moe_leverage.audit import audit_statements, load_statements
from moe_leverage.cli import app
from moe_leverage.cli import explain as _explain  # noqa: F401
from moe_leverage.design import every_law, huggingface
from moe_leverage.design.designer import explain
from moe_leverage.theory import forms
from moe_leverage.theory.forms import DENSE, ExpertsLoss, Form, Layout, SizeAndTokensLoss
from moe_leverage.theory.frontier import leverage_at_optimum, leverage_at_tokens, optimum
from moe_leverage.theory.law import Array
from moe_leverage.theory.laws import PUBLISHED
from moe_leverage.theory.printed import LAWS, Reading, find_law, printed_laws, read_law
from moe_leverage.theory.statements import standing, verdict

ANSWERING = [law for law in printed_laws() if law.form]
STATEMENTS = [(law, statement) for law in ANSWERING for statement in law.statements]
MIXTRAL = huggingface.load("Mixtral-8x7B").model
DECIDED = {"layout": Layout(activation_ratio=0.031, granularity=12), "compute": 1e20}


@pytest.mark.parametrize(("law", "statement"), STATEMENTS, ids=lambda one: one.id)
def test_a_law_returns_what_its_paper_says(law, statement):
    found = verdict(law, standing(law).reading, statement)
    assert (found.label == "discrepant") == (not statement.decides)
    assert statement.decides or statement.matters


def test_the_readings_follow_from_the_statements():
    read = {law.id: standing(law).reading.options for law in ANSWERING}
    assert {
        read[f"clark-2022-{kind}"]["logarithm_base"] for kind in ("s-base", "rl-r", "hash")
    } == {10.0}
    assert read["krajewski-2024"]["params"] == "total"
    _, (_, other) = standing(find_law("krajewski-2024")).by_reading
    assert sum(entry.label == "discrepant" for entry in other) >= 6


def test_the_book_audits_twenty_statements_of_other_papers():
    labels = [audit_statement.label for audit_statement in audit_statements()]
    assert len(labels) == len(load_statements()) >= 20
    assert labels.count("discrepant") == 2


@pytest.mark.parametrize("name", huggingface.names())
def test_every_model_is_answered_by_every_law(name):
    done = CliRunner().invoke(app, ["predict", name, "--law", "all", "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.output)
    assert [row["law"] for row in rows] == [*(law.id for law in printed_laws()), every_law.OWN]
    for row in rows:
        assert {"law", "value", "in_domain", "reason"} <= set(row)
        assert row["value"] is not None or row["reason"], row
        assert row["in_domain"] or row["reason"], row
    values = [row["value"] for row in rows if row["law"] in {law.id for law in ANSWERING}]
    assert all(value is not None and 0.1 < value < 1e4 for value in values)
    if not huggingface.load(name).anatomy.is_moe:
        assert set(values) == {1.0}


def test_a_config_file_is_answered_and_what_was_assumed_is_said():
    path = str(huggingface.MODELS / "Mixtral-8x7B.json")
    done = CliRunner().invoke(app, ["predict", path, "--law", "abnar-2025"])
    assert "Abnar et al. 2025" in done.output
    assert "note: tokens = " in done.output
    assert "Krajewski" not in done.output


def test_the_laws_and_how_they_stand_are_listed():
    listed = json.loads(CliRunner().invoke(app, ["laws", "--json"]).output)
    assert set(listed) == {law.id for law in printed_laws()}
    assert listed["zhao-2025"] == {"missing": "coefficients not at hand"}
    done = CliRunner().invoke(app, ["laws"])
    assert "read so: logarithms to base 10" in done.output
    assert "discrepant: The size term of a dense model is 30.3640" in done.output


def test_the_papers_law_is_the_one_of_the_book():
    said = every_law.answer(find_law("tian-2025"), every_law.Asked(**DECIDED))
    point = {"activation_ratio": 0.031, "granularity": 12, "compute": 1e20}
    assert (said.value, said.in_domain, said.reason) == (PUBLISHED.joint(**point), True, "")
    assert every_law.leverage_of("tian-2025", MIXTRAL, tokens=1e12).value == pytest.approx(
        explain(huggingface.load("Mixtral-8x7B"), tokens=1e12).published.value, rel=1e-9
    )


def test_leverage_is_that_of_a_search_over_a_fine_grid():
    sides = find_law("ludziejewski-2025").sides(Reading())
    layout, compute = Layout(activation_ratio=1 / 8), 1e21

    def least(layout, compute):
        sizes = np.geomspace(1e7, 1e12, 40_001)
        return sides.mixture.loss(layout, sizes, compute / 6 / sizes).min()

    wanted = least(layout, compute)
    grid = np.geomspace(1e21, 4e21, 801)
    dense = np.array([least(DENSE, c) for c in grid])
    equal = np.interp(-wanted, -dense, grid)
    found = leverage_at_optimum(sides.mixture, sides.dense, layout, compute)
    assert found == pytest.approx(equal / compute, rel=1e-4)


def test_a_dense_layout_has_leverage_one_where_the_dense_side_is_the_same_law():
    for name in ("ludziejewski-2025", "abnar-2025"):
        law = find_law(name)
        sides = law.sides(standing(law).reading)
        assert leverage_at_optimum(sides.mixture, sides.dense, DENSE, 1e21) == pytest.approx(1)
        assert leverage_at_tokens(sides.mixture, sides.dense, DENSE, 1e9, 2e10) == pytest.approx(1)


def test_the_optimum_is_that_of_the_closed_form():
    law = SizeAndTokensLoss(a=406.4, alpha=0.34, b=410.7, beta=0.28, c=1.69)
    scale = (0.34 * 406.4 / (0.28 * 410.7)) ** (1 / 0.62)
    wanted = scale * (1e21 / 6) ** (0.28 / 0.62)
    assert optimum(law, DENSE, 1e21).active_params == pytest.approx(wanted, rel=1e-3)


def test_what_no_dense_model_reaches_has_no_value():
    asked = every_law.Asked(layout=Layout(activation_ratio=0.01, granularity=8), compute=1e30)
    said = every_law.answer(find_law("abnar-2025"), asked)
    assert (said.value, said.in_domain, said.reason) == (None, False, every_law.OUT_OF_REACH)


def test_a_model_without_a_variable_is_told_so_by_the_law_that_has_it_alone():
    asked = every_law.Asked(layout=Layout(activation_ratio=0.1), compute=1e20)
    said = {law.id: every_law.answer(law, asked) for law in ANSWERING}
    silent = {name for name, answer in said.items() if answer.value is None}
    assert silent == {"tian-2025", "krajewski-2024"}
    assert all("granularity is a variable" in said[name].reason for name in silent)


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (
            ["predict", "Mixtral-8x7B", "--law", "newton"],
            "law = 'newton': must be one of tian-2025",
        ),
        (
            ["predict", "--law", "all", "--compute", "1e20"],
            "--activation-ratio = None: is required",
        ),
        (["predict", "Mixtral-8x7B", "--granularity", "2"], "is that of the model"),
        (["predict", "--tokens", "1e9"], "need a MODEL"),
        (
            ["predict", "Mixtral-8x7B", "--tokens", "1e9", "--compute", "1e20"],
            "contradicts compute",
        ),
    ],
)
def test_a_mistake_is_named(arguments, answer):
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, ValueError)
    assert answer in str(done.exception)


def test_explain_asks_the_laws_as_well():
    done = CliRunner().invoke(app, ["explain", "OLMoE-1B-7B", "--laws", "--json"])
    assert len(json.loads(done.output)["laws"]) == len(printed_laws()) + 1
    done = CliRunner().invoke(app, ["explain", "OLMoE-1B-7B", "--laws"])
    assert "extrapolated beyond the runs behind the law" in done.output


LUDZIEJEWSKI = (LAWS / "ludziejewski-2025.toml").read_text()
SQUARE_ROOT = """
title = "A made-up law"
arxiv = "0000.00000"
citation = "nobody"
locator = "Equation 1"
form = "SquareRootLoss"
coefficients = { scale = 200.0, share = 0.5 }
domain = { compute = [1e18, 1e22] }

[[statement]]
id = "made-up-eight"
locator = "Table 1"
says = "Mixtures that activate an eighth have twice the leverage"
published = "2.0"
check = { name = "best_leverage", compute = 1e20, expansion = 4.0, granularities = [1] }
"""


@pytest.fixture
def new_form(monkeypatch):
    monkeypatch.setattr(forms, "FORMS", forms.FORMS)
    known = dict(forms.FORMS)

    @dataclass(frozen=True, slots=True)
    class SquareRootLoss(Form):
        """A loss in C alone, and A to a power: EL = A^(-share)."""

        scale: float
        share: float

        def loss(self, layout: Layout, active_params: Array, num_tokens: Array) -> Array:
            bonus = layout.activation_ratio ** (self.share / 4)
            return bonus * self.scale / np.sqrt(np.sqrt(active_params * num_tokens))

    yield SquareRootLoss
    forms.FORMS.clear()
    forms.FORMS.update(known)


def test_a_law_takes_one_file_and_for_a_new_form_one_class(new_form, tmp_path):
    for name in ("tian-2025", "zhao-2025"):
        (tmp_path / f"{name}.toml").write_text((LAWS / f"{name}.toml").read_text())
    (tmp_path / "made-up.toml").write_text(SQUARE_ROOT)
    laws = printed_laws(tmp_path)
    assert [law.id for law in laws] == ["tian-2025", "made-up", "zhao-2025"]
    said = every_law.answer(laws[1], every_law.Asked(**DECIDED))
    assert said.value == pytest.approx(0.031**-0.5, rel=1e-3)
    assert (said.in_domain, said.basis) == (True, "own optimum")


def test_a_law_that_does_not_return_its_statements_answers_nothing(new_form, tmp_path):
    (tmp_path / "made-up.toml").write_text(SQUARE_ROOT.replace('"2.0"', '"3.0"'))
    law = read_law(tmp_path / "made-up.toml")
    assert standing(law).reading is None
    said = every_law.answer(law, every_law.Asked(**DECIDED))
    assert (said.value, said.in_domain, said.reason) == (None, False, every_law.NOT_RETURNED)


@pytest.mark.parametrize(
    ("old", "new", "answer"),
    [
        ('form = "ExpertsLoss"', 'form = "Nosuch"', "form = 'Nosuch': must be one of"),
        ("c = 1.3637", "q = 1.3637", "coefficients = "),
        ("a = 35.91, ", "", "coefficients = "),
        ("num_tokens = [0.5e9, 80e9]", "num_tokens = [80e9, 0.5e9]", "must be [smallest, largest]"),
        ("domain = { active", "domain = { age = [1, 2], active", "domain.age"),
        ('locator = "Equation 6', 'place = "Equation 6', "is not known"),
        ('form = "ExpertsLoss"', "", "needs a form, or `missing`"),
        ('name = "margin"', 'name = "depth"', "check = 'depth': must be one of"),
        ("title =", "title", "ludz.toml: "),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, old, new, answer):
    path = tmp_path / "ludz.toml"
    assert old in LUDZIEJEWSKI
    path.write_text(LUDZIEJEWSKI.replace(old, new, 1))
    with pytest.raises(ValueError, match=r".") as caught:
        standing(read_law(path))
    assert answer in str(caught.value)


def test_the_law_of_experts_reduces_to_its_own_table_with_the_start_that_it_implies():
    law = find_law("ludziejewski-2025")
    form = law.sides(Reading()).mixture
    assert isinstance(form, ExpertsLoss)
    implied = replace(form, x_start=2.083)
    table = {1: (30.3640, 53.9838), 8: (21.8330, 119.9126), 32: (16.5424, 234.6726)}
    for experts, (m, n) in table.items():
        found = implied.at_expansion(experts)
        assert found[0] == pytest.approx(m, rel=3e-4)
        assert found[2] == pytest.approx(n, rel=3e-4)
    size, tokens = np.array([1.7e9]), np.array([9.7e9])
    moved = implied.loss(DENSE, size, tokens) - form.loss(DENSE, size, tokens)
    assert math.fabs(moved[0]) < 0.005
