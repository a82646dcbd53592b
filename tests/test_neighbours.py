"""Studies of what stands beside the paper: their designs, their questions, and how pairs answer."""

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_ledger import ADOPTED as LAWS

from moe_leverage import corpus, ledger, pruning, stages
from moe_leverage.accounting import count_parameters
from moe_leverage.analysis import journey
from moe_leverage.audit import load_claims, load_neighbours, pairs
from moe_leverage.audit.claims import CHECKS
from moe_leverage.config import LING2_ROUTING, RunConfig
from moe_leverage.modules import import_modules
from moe_leverage.stages import DOMAINS
from moe_leverage.studies.catalogue import STUDIES, plan
from moe_leverage.studies.neighbours import LING_PARTS
from moe_leverage.training.schedule import merge_windows, phase_steps

LING = plan("nano-ling", LAWS)
COLUMNS = STUDIES["nano-ling"].varies


def leaf(run, name):
    if name == "num_parents":
        return len(run.parents)
    owner = run.model.routing if name.startswith("routing.") else run
    name = name.removeprefix("routing.")
    return getattr(owner, name) if hasattr(owner, name) else getattr(run.model, name)


def table(planned, loss):
    rows = [
        {"budget": f"{task.point.budget_flops:.0e}", "seed": task.run.seed, "loss_nats": loss(task)}
        | {"chain_flops": stages.chain_flops(task.run)}
        | {name: leaf(task.run, name) for name in STUDIES[task.study].varies}
        for task in planned
    ]
    return pd.DataFrame(rows)


# --- Ling 2.0 in small ---------------------------------------------------------------------


def test_the_whole_recipe_is_that_of_ling_2_in_its_layout():
    whole = [
        task.run for task in LING if all(leaf(task.run, name) == value for name, value in {
            "qk_norm": "head", "rope_fraction": 0.5, "num_mtp_layers": 1, "num_dense_layers": 1,
            "decay": "none",
        }.items()) and task.run.model.routing == LING2_ROUTING
    ]  # fmt: skip
    assert len(whole) == 2 * 3
    for run in whole:
        model = run.model
        assert (model.num_experts, model.num_active_experts, model.num_shared_experts) == (
            256,
            8,
            1,
        )
        assert model.granularity == pytest.approx(8, rel=0.15)
        assert model.d_ffn == 9 * model.d_expert
        assert merge_windows(run) == [16, 8, 4, 2]
        window, decay = 16 * run.merge_interval, phase_steps(replace(run, decay="linear"))[2]
        assert decay / 2 < window < 2 * decay  # as long as the decay whose place it takes
    assert [LING2_ROUTING.num_groups, LING2_ROUTING.num_groups_kept] == [8, 4]


def test_each_part_is_left_out_once_and_the_paper_has_none_of_them():
    for budget in (3e12, 1e13):
        runs = [t.run for t in LING if t.point.budget_flops == budget and t.point.seed == 0]
        assert len(runs) == 2 + len(LING_PARTS) + 1
        places = [tuple(leaf(run, name) for name in COLUMNS) for run in runs]
        assert len(set(places)) == len(runs)  # the columns tell every design apart
        whole, paper = (
            next(run for run in runs if (run.decay, run.model.qk_norm, run.model.num_dense_layers)
                 == place and (run.model.routing in (LING2_ROUTING, paper_routing())))
            for place in (("none", "head", 1), ("exponential", "none", 1))
        )  # fmt: skip
        distance = [
            sum(a != b for a, b in zip(p, places[runs.index(whole)], strict=True)) for p in places
        ]
        assert sorted(distance) == [0] + [1] * 9 + [8]
        assert distance[runs.index(paper)] == 8


def paper_routing():
    return next(
        task.run.model.routing for task in plan("activation", LAWS) if task.run.model.is_moe
    )


# --- average parameters --------------------------------------------------------------------


def journey_runs(loss):
    rows = []
    for task in plan("average-parameters", LAWS):
        described = ledger.describe(task.run)
        mean = described.get("average_params", described["axes"]["total_params"])
        rows.append(
            {
                "config_id": task.run.with_seed(0).identity(),
                "prune_sparsity": task.run.prune_sparsity,
                "total_params": described["axes"]["total_params"],
                "average_params": described.get("average_params"),
                "final_params": described.get("final_params"),
                "num_tokens": task.run.num_tokens,
                "loss_nats": loss(mean, task.run.num_tokens),
            }
        )
    return pd.DataFrame(rows)


def test_fifteen_schedules_stand_beside_a_dense_ladder_on_as_many_tokens():
    planned = plan("average-parameters", LAWS)
    pruned = [task.run for task in planned if task.run.prune_sparsity]
    dense = [task.run for task in planned if not task.run.prune_sparsity]
    schedules = {(r.prune_sparsity, r.prune_start, r.prune_end) for r in pruned}
    assert len(schedules) == 15
    for body in {run.model for run in pruned}:
        tokens = next(run.num_tokens for run in pruned if run.model == body)
        beside = [run for run in dense if abs(run.num_tokens / tokens - 1) < 0.02]
        sizes = [count_parameters(run.model).non_vocabulary for run in beside]
        assert len(set(sizes)) >= 5
        assert body in {run.model for run in beside}
        least = min(pruning.parameters_after(r, r.num_steps) for r in pruned if r.model == body)
        assert min(sizes) <= least  # no count lies outside the ladder
        assert {run.seed for run in beside} == {0, 1}


def test_the_count_that_a_loss_follows_is_found():
    def loss(n, d):
        return 2 + 60 * n**-0.35 + 40 * d**-0.3

    errors = journey.errors(journey_runs(loss)).abs().mean()
    assert errors["average"] < 0.002
    assert errors["final"] > 5 * errors["average"]
    assert errors["first"] > 5 * errors["average"]
    generator = np.random.default_rng(0)
    runs = journey_runs(lambda n, d: loss(n, d) * np.exp(0.005 * generator.standard_normal()))
    drawn = journey.resampled(runs, draws=40)
    assert drawn.shape == (40, 3, 2)
    assert (drawn[:, 1:, 1] > drawn[:, :1, 1]).all()
    assert np.abs(np.quantile(drawn[:, 0, 0], [0.05, 0.95])).max() < 0.01


def test_a_law_of_few_dense_runs_is_refused():
    runs = journey_runs(lambda n, d: 3.0)
    few = pd.concat([runs[runs["prune_sparsity"] > 0], runs[runs["prune_sparsity"] == 0][:5]])
    with pytest.raises(ValueError, match="dense runs = 5: must be 8 at least"):
        journey.errors(few)


# --- upcycling -----------------------------------------------------------------------------


def test_mixtures_of_four_branches_stand_beside_what_their_compute_buys_otherwise():
    planned = plan("upcycling", LAWS)
    upcycled = [task.run for task in planned if task.sweep == "upcycled"]
    assert len(upcycled) == 3 * 3
    for run in upcycled:
        assert tuple(parent.domain for parent in run.parents) == DOMAINS
        assert {len(parent.parents) for parent in run.parents} == {1}
        assert (run.model.num_experts, run.model.num_active_experts) == (4, 2)
        assert (run.domain, {one.seed for one in stages.behind(run)}) == ("", {run.seed})
    kinds = {(r.model.num_attention_experts, r.model.shares_key_values) for r in upcycled}
    assert kinds == {(0, False), (4, False), (4, True)}
    charged = {round(stages.chain_flops(run) / 8e12, 2) for run in upcycled}
    others = {
        task.sweep: stages.chain_flops(task.run)
        for task in planned
        if task.sweep == "from-nothing" or task.point.budget_flops == 5e12
    }
    assert charged == {1.0} == {round(flops / 8e12, 2) for flops in others.values()}
    assert set(others) == {"from-nothing", "continued"}
    (shape,) = {task.run.model for task in planned if task.sweep == "from-nothing"}
    assert shape in {run.model for run in upcycled}


def test_no_stage_asks_for_more_of_a_domain_than_there_is():
    for task in plan("upcycling", LAWS):
        run, rows = task.run, corpus.read_manifest("full")["domains"]
        there = rows[run.domain]["tokens"] if run.domain else 64_000_000
        sequences = stages.sequences_before(run) + run.num_steps * run.batch_sequences
        assert sequences * run.sequence_length < there / 2


# --- questions and pairs -------------------------------------------------------------------


def test_every_question_names_a_study_columns_that_it_varies_and_one_pair_a_seed():
    import_modules("moe_leverage.audit")
    claims = load_neighbours()
    assert len({claim.id for claim in (*claims, *load_claims())}) == len(claims) + len(
        load_claims()
    )
    bibliography = (Path(__file__).parents[1] / "book" / "references.bib").read_text()
    for claim in claims:
        assert claim.region is not None, claim.id
        assert f"{{{claim.paper}," in bibliography, claim.id
        assert re.search(r"Abstract|Section|Table|Fig", claim.locator), claim.id
        assert claim.check["name"] in CHECKS, claim.id
        study = claim.arguments["study"]
        assert study in STUDIES, claim.id
        if claim.check["name"] == "paired":
            planned = plan(study, LAWS)
            runs = table(planned, lambda task: 3.0)
            found = pairs.differences(
                pairs.at_equal_cost(runs) if claim.arguments.get("charged") else runs,
                claim.arguments["changed"],
                list(STUDIES[study].varies),
                claim.arguments.get("partner"),
            )
            of_study = {"nano-ling": 2 * 3, "average-parameters": 2 * 2 * 3, "upcycling": 3}
            assert len(found) == of_study[study], claim.id


def test_every_part_of_the_recipe_has_a_question():
    asked = {claim.id for claim in load_neighbours()}
    assert {f"ling2-{name}" for name in (*LING_PARTS, "dense-first", "recipe")} <= asked


def test_a_pair_recovers_the_effect_of_one_change_whatever_else_the_seeds_do():
    generator = np.random.default_rng(0)
    of_seed = {seed: generator.normal() for seed in range(3)}

    def loss(task):
        noise = 0.001 * generator.standard_normal()
        return 3 + of_seed[task.run.seed] + 0.05 * (task.run.model.qk_norm == "none") + noise

    found = pairs.differences(table(LING, loss), {"qk_norm": "none"}, list(COLUMNS))
    effect, half = pairs.mean_and_half_width(found)
    assert len(found) == 6
    assert abs(effect - 0.05) < half < 0.005


def test_the_interval_of_a_pair_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    keys = pd.DataFrame({"budget": ["a"] * 3 + ["b"] * 3, "seed": [0, 1, 2] * 2})
    inside = 0
    for _ in range(400):
        effect, half = pairs.mean_and_half_width(keys.assign(nats=generator.normal(1, 1, 6)))
        inside += abs(effect - 1) < half
    assert 0.86 < inside / 400 < 0.94


def test_what_cannot_be_paired_is_named():
    runs = table(LING, lambda task: 3.0)
    with pytest.raises(ValueError, match=r"changed = 'colour': must be one of num_dense_layers"):
        pairs.differences(runs, {"colour": "red"}, list(COLUMNS))
    two = pd.concat([runs, runs])
    with pytest.raises(ValueError, match=r"changed = .*more than one partner"):
        pairs.differences(two, {"qk_norm": "none"}, list(COLUMNS))


def test_a_study_without_its_runs_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "DIRECTORY", tmp_path)
    found = CHECKS["paired"](study="nano-ling", changed={"qk_norm": "none"})
    assert found.effect is None
    assert "decided when complete: nano-ling: 0 of an unknown number of runs" in found.detail


def test_no_field_of_a_run_that_a_neighbour_needs_is_part_of_older_identities():
    """Each is at its default in every other study, so that their runs keep their identity."""
    added = {
        "merge_windows",
        "domain",
        "parents",
        *(f.name for f in fields(RunConfig) if f.name.startswith("prune_")),
    }
    assert added <= {field.name for field in fields(RunConfig)}
    for name in ("activation", "tuning", "merge"):
        for task in plan(name, LAWS):
            assert not added & set(task.run.departures())
