"""The studies expand to the runs of the protocol, on the paper's axes, within its means."""

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from moe_leverage import ledger, paths
from moe_leverage.accounting import count_forward_flops, count_training_flops
from moe_leverage.config import RunConfig
from moe_leverage.studies import adoption, neighbours, status
from moe_leverage.studies.adoption import adopt
from moe_leverage.studies.catalogue import STUDIES, get, plan
from moe_leverage.studies.ladder import LADDER, TOP
from moe_leverage.studies.place import Place, missing
from moe_leverage.studies.protocol import (
    GEOMETRIES,
    SEQUENCE_LENGTH,
    STARTING_MODEL,
    Laws,
    MeasuredSizes,
    Point,
    adopted_laws,
    adopted_path,
    derive,
    derive_partner,
)
from moe_leverage.studies.sweeps import Study, Sweep
from moe_leverage.theory.laws import PUBLISHED, PowerLaw

RATE = PowerLaw(0.2, -0.16)
BATCH = PowerLaw(0.01, 0.4)
FAMILIES = ("dense", "moe")
RATES = {f"{family}_learning_rate": RATE for family in FAMILIES} | {
    f"{family}_batch_tokens": BATCH for family in FAMILIES
}
LAWS = Laws(
    tuning=RATES,
    isoflop={f"{family}_model": STARTING_MODEL for family in FAMILIES},
    leverage=PUBLISHED.joint,
)
COMPILED = 5e10  # FLOPs a second and worker, compiled, at the bodies of the ladder
VARIED_AT = (1e12, 1e13)  # training FLOPs, of the variants
BALANCES = (("routing.balance_coefficient",), ("routing.score",))  # what some studies are about
SNAPSHOT = Path(__file__).parent / "plans.txt"
ALL = {name: plan(name, LAWS) for name in STUDIES}


def shown(one):
    model, run = one.run.model, one.run
    return (
        f"{one.study} {one.sweep} {one.run_id} C={count_training_flops(run):.4g} "
        f"A={model.activation_ratio:.4f} G={model.granularity:.2f} S={model.shared_ratio:.3f} "
        f"E={model.num_experts} {model.num_layers}x{model.d_model} eta={run.learning_rate:.3g} "
        f"B={run.batch_tokens} D={run.num_tokens} seed={run.seed}"
    )


def snapshot():
    return "".join(shown(task) + "\n" for planned in ALL.values() for task in planned)


def test_the_plans_have_not_moved():
    """Moved on purpose: run this file as a program, and look at the difference."""
    assert SNAPSHOT.read_text() == snapshot()


def test_the_ladder_is_of_hundreds_of_runs_that_two_cores_train_within_a_day():
    unique = {task.run_id: task.run for planned in ALL.values() for task in planned}
    assert len(unique) >= 350
    total = sum(count_training_flops(run) for run in unique.values())
    assert total / COMPILED / 2 < 24 * 3600


@pytest.mark.parametrize("name", STUDIES)
def test_every_run_keeps_its_budget_and_survives_its_own_json(name):
    for task in ALL[name]:
        if task.sweep != "dense" or name != "nano-beta":
            spent = count_training_flops(task.run)
            step = spent / task.run.num_steps
            assert abs(spent - task.point.budget_flops) <= step
        assert RunConfig.from_dict(json.loads(json.dumps(task.run.to_dict()))) == task.run
        assert task.run.num_tokens < 64_000_000
        assert task.run.model.d_expert % 4 == 0


def axis(name, quantity, compute):
    return sorted({
        round(getattr(task.run.model, quantity), 4)
        for task in ALL[name]
        if task.point.budget_flops == compute and not task.point.dense
    })  # fmt: skip


def test_studies_vary_the_axis_they_are_named_for_and_hold_the_others():
    for budget in LADDER:
        assert axis("activation", "num_experts", budget) == [2, 4, 8, 16, 32, 64, 128, 256]
        assert axis("activation", "granularity", budget) == [2.0]
        assert len(axis("granularity", "granularity", budget)) >= 5
        for ratio in axis("granularity", "activation_ratio", budget):
            assert ratio == pytest.approx(3 / 65, rel=0.02)
    assert axis("activation", "num_experts", TOP) == [8, 64, 256]
    for budget in VARIED_AT:
        assert axis("shared", "num_shared_experts", budget) == [0, 1, 4, 6, 8, 10]
        assert axis("dense-first", "num_dense_layers", budget) == [0, 1]
    routings = {name: [task.run.model.routing for task in ALL[name]] for name in STUDIES}
    assert {routing.balance_coefficient for routing in routings["balance"]} == {0.001}
    assert {routing.score for routing in routings["bias-routing"]} == {"softmax", "sigmoid"}
    assert {task.run.decay for task in ALL["merge"]} == {"exponential", "none"}
    assert {task.run.model.num_experts for task in ALL["nano-beta"]} == {0, 384}


def test_whole_mixtures_have_the_body_and_the_rates_of_their_dense_twin():
    """Else the control, A = 1 against dense, would compare two bodies."""
    laws = Laws(
        tuning={
            "dense_learning_rate": PowerLaw(0.004, 0.0), "moe_learning_rate": PowerLaw(0.008, 0.0),
            "dense_batch_tokens": PowerLaw(2048.0, 0.0), "moe_batch_tokens": PowerLaw(4096.0, 0.0),
        },
        isoflop={"dense_model": PowerLaw(0.02, 0.6), "moe_model": PowerLaw(0.2, 0.6)},
    )  # fmt: skip
    points = {(task.point.dense, task.point.activation_ratio): task.point for task in ALL[
        "activation"] if task.point.budget_flops == 1e13}  # fmt: skip
    twin, whole, sparse = (
        derive(points[key], laws) for key in ((True, 3 / 65), (False, 1.0), (False, 3 / 257))
    )
    for name in ("learning_rate", "batch_tokens"):
        assert getattr(whole, name) == getattr(twin, name) != getattr(sparse, name)
    for name in ("num_layers", "d_model"):
        assert getattr(whole.model, name) == getattr(twin.model, name)
    assert sparse.model.d_model > whole.model.d_model
    assert whole.model.activation_ratio == 1


def test_dense_first_layers_cost_what_the_experts_they_replace_cost():
    for budget in VARIED_AT:
        routed = [
            task.run.model for task in ALL["dense-first"] if task.point.budget_flops == budget
        ]
        flops = [count_forward_flops(model, SEQUENCE_LENGTH) for model in routed]
        without_router = [task.total - task.router for task in flops]
        assert max(without_router) == pytest.approx(min(without_router), rel=1e-12)


def test_attention_takes_the_share_asked_for_at_equal_cost():
    for task in ALL["attention"]:
        flops = count_forward_flops(task.run.model, SEQUENCE_LENGTH)
        attention = flops.attention_projections + flops.attention_scores
        assert attention / flops.non_embedding == pytest.approx(
            task.point.attention_share, abs=0.06
        )
    for budget in VARIED_AT:
        costs = [
            count_forward_flops(task.run.model, SEQUENCE_LENGTH).non_embedding
            for task in ALL["attention"]
            if task.point.budget_flops == budget
        ]
        assert max(costs) < 1.05 * min(costs)


def test_the_joint_design_fills_its_box_off_the_axes():
    points = [task.run.model for task in ALL["joint"]]
    assert len(points) == 24
    assert min(model.activation_ratio for model in points) < 0.04
    assert max(model.activation_ratio for model in points) > 0.3
    assert len({task.point.budget_flops for task in ALL["joint"]}) == 24
    others = {task.run_id for name, runs in ALL.items() if name != "joint" for task in runs}
    assert not others & {task.run_id for task in ALL["joint"]}


def test_rates_and_batches_come_from_the_law_of_the_family():
    laws = Laws(tuning=dict(RATES) | {"dense_learning_rate": PowerLaw(0.1, -0.16)})
    top = LADDER[-1]
    moe, dense = (derive(Point(budget_flops=top, dense=d), laws) for d in (False, True))
    assert moe.learning_rate == pytest.approx(RATE(top), abs=1e-6)
    assert dense.learning_rate == pytest.approx(RATE(top) / 2, abs=1e-6)
    assert moe.batch_tokens == pytest.approx(BATCH(top), abs=SEQUENCE_LENGTH)


@pytest.mark.parametrize("dense", [False, True])
def test_models_have_the_body_of_their_own_budget(dense):
    laws = Laws(tuning=LAWS.tuning, isoflop=LAWS.isoflop)
    point = Point(budget_flops=1e13, dense=dense)
    body = derive(point, laws).model
    by_start = derive(point, Laws()).model
    assert (body.num_layers, body.d_model) == (by_start.num_layers, by_start.d_model)


def test_bodies_follow_the_optima_where_they_are_measured():
    """By the law alone the body at 1e12 would be a step above the optimum that was measured."""
    law = STARTING_MODEL
    size = next(i for i, g in enumerate(GEOMETRIES) if (g.num_layers, g.d_model) == (1, 32))
    body = derive(Point(budget_flops=1e12, dense=True, size=size), Laws()).model
    shallow = count_forward_flops(body, SEQUENCE_LENGTH).non_embedding
    sizes = MeasuredSizes(law=law, compute=(1e12, 1e14), optima=(shallow, 16 * shallow))
    laws = Laws(tuning=LAWS.tuning, isoflop=dict.fromkeys(("dense_model", "moe_model"), sizes))
    for dense in (False, True):
        model = derive(Point(budget_flops=1e12, dense=dense), laws).model
        assert (model.num_layers, model.d_model) == (1, 32)
    assert sizes(1e13) == pytest.approx(4 * shallow)  # half way in ln C
    assert sizes(1e14) == pytest.approx(16 * shallow)
    assert (sizes(0.99e12), sizes(1.01e14)) == (law(0.99e12), law(1.01e14))


def test_the_ladder_has_one_recipe_but_for_its_pilots():
    """The baseline gets the recipe of what it is compared with; only the text scored is more."""
    for task in chain(*ALL.values()):
        is_own = task.study not in {study.name for study in neighbours.STUDIES}
        if STUDIES[task.study].role != "pilot" and is_own and task.study != "replay":
            run, routing = task.run, task.run.model.routing
            assert run.validation_tokens == 1_000_000
            assert (run.adam_beta2, run.model.qk_norm) == (0.95, "none")
            if task.study != "merge":
                assert run.decay == "exponential"
            if run.model.is_moe and STUDIES[task.study].varies[:1] not in BALANCES:
                assert routing.balance_coefficient == 0.1


def test_the_dense_partner_has_the_tokens_of_the_mixture_and_its_leverage_in_flops():
    point = ALL["nano-beta"][0].point
    mixture, partner = derive(point, LAWS), derive_partner(point, LAWS)
    leverage = PUBLISHED.joint(
        activation_ratio=mixture.model.activation_ratio,
        granularity=mixture.model.granularity,
        compute=point.budget_flops,
    )
    ratio = count_training_flops(partner) / count_training_flops(mixture)
    assert ratio == pytest.approx(leverage, rel=0.2)
    assert partner.num_tokens == pytest.approx(mixture.num_tokens, rel=0.02)


def test_studies_refuse_to_plan_before_their_laws_are_measured():
    rule = r"study = 'activation': needs the tuning law"
    with pytest.raises(ValueError, match=rule):
        plan("activation", Laws())
    with pytest.raises(ValueError, match=r"study = 'nano-beta': needs the leverage law"):
        plan("nano-beta", Laws(tuning=LAWS.tuning, isoflop=LAWS.isoflop))
    with pytest.raises(ValueError, match=r"study = 'depth': must be one of routing-pilot, noise"):
        get("depth")


def test_later_laws_do_not_move_earlier_studies():
    early = [task.run_id for task in plan("tuning", Laws())]
    assert early == [task.run_id for task in ALL["tuning"]]
    without = Laws(tuning=LAWS.tuning)
    assert [task.run_id for task in plan("isoflop", without)] == [
        task.run_id for task in ALL["isoflop"]
    ]


def test_a_sweep_is_the_product_of_its_axes_thinned_by_where():
    base = Point(budget_flops=1e12)
    axes = {"granularity": (2, 4), "both": ({"seed": 1}, {"seed": 2, "dense": True})}
    names = frozenset({"granularity"})
    sweep = Sweep(
        name="s", base=base, axes=axes, where=lambda point, run: point.seed == 2, ignored=names
    )
    assert [(p.granularity, p.seed, p.dense) for p in sweep.points()] == [
        (2, 1, False), (2, 2, True), (4, 1, False), (4, 2, True),
    ]  # fmt: skip
    assert len(list(sweep.runs(Laws()))) == 2


def test_a_study_of_a_new_axis_is_one_entry_of_the_catalogue(monkeypatch):
    """Its claim is the second file: test_audit_measured has one on such an axis."""
    sweep = Sweep(
        name="ladder",
        base=Point(budget_flops=1e12),
        axes={"adam_beta2": (0.9, 0.95, 0.99), "design": ({"dense": True}, {"granularity": 4.0})},
    )
    study = Study(name="optimiser", answers="is 0.95 best?", sweeps=(sweep,), needs=())
    monkeypatch.setitem(STUDIES, "optimiser", study)
    planned = plan("optimiser", Laws())
    assert len(planned) == 6
    assert {task.run.adam_beta2 for task in planned} == {0.9, 0.95, 0.99}
    assert {task.run.model.is_moe for task in planned} == {False, True}


DENSE_TOO = {"dense": (False, True)}


@pytest.mark.parametrize(
    ("axes", "rule"),
    [
        ({"granularty": (2, 4)}, "granularty = 2: is not a field of a point, a run, its model"),
        ({"design": ({"granularty": 2},)}, "granularty = 2: is not a field of a point"),
        ({"experts": (8, 16)}, "experts = 8: is not a field of a point"),
        ({"num_steps": (10, 20)}, "num_steps = 10: follows from budget_flops"),
        ({"seed": 3}, "seed = 3: an axis is a list of values"),
        ({"qk_norm": "head"}, "qk_norm = 'head': an axis is a list of values"),
        ({"size": (3, 12)}, "size = 12: must be a place from -1 to 11"),
        (DENSE_TOO | {"granularity": (2, 4, 8), "seed": (0, 1, 2)}, "granularity = 4: a dense mod"),
        (DENSE_TOO | {"z_coefficient": (0.01,)}, "z_coefficient = 0.01: a dense model has none"),
        (DENSE_TOO | {"balance_coefficient": (0.1,)}, "balance_coefficient = 0.1: a dense model"),
        (
            {"bias_routing": (True,), "balance_coefficient": (0.01, 0.1)},
            "balance_coefficient = 0.1: derives to the same run as 0.01; drop one, or name it",
        ),
        ({"recipe": ({"batch_factor": 1.01}, {})}, "batch_factor = 1.0: derives to the same run"),
        ({"seed": (0, 1, 0)}, "sweep = 's': has the same point twice"),
    ],
)
def test_a_sweep_that_would_change_nothing_is_refused_by_the_name_of_its_axis(axes, rule):
    with pytest.raises(ValueError, match=f"^{rule}"):
        list(Sweep(name="s", base=Point(budget_flops=1e12), axes=axes).runs(Laws()))


def test_names_that_some_points_do_without_are_declared():
    """Eighteen points, of which the dense ones are three runs; what the base says is no choice."""
    axes = DENSE_TOO | {"granularity": (2, 4, 6), "seed": (0, 1, 2)}
    base = Point(budget_flops=1e12, balance_coefficient=0.1, granularity=4.0)
    sweep = Sweep(name="s", base=base, axes=axes, ignored=frozenset({"granularity"}))
    runs = [run for _, run in sweep.runs(Laws())]
    assert (len(runs), len(set(runs))) == (18, 12)
    with pytest.raises(ValueError, match=r"seed = 4: is a field of the point, not a setting"):
        Point(budget_flops=1e12, settings={"seed": 4})


def synthetic(runs, loss):
    return [
        ledger.describe(task.run)
        | {
            "study": task.study,
            "status": "ok",
            "steps_done": task.run.num_steps,
            "validation_loss_nats": float(loss(task)),
            "flops_per_second": 1e10,
        }
        for task in runs
    ]


BEST_SIZE = PowerLaw(0.16, 0.5)


def bowl(one):
    """A loss whose best rate, batch and model size follow known laws."""
    compute, run = one.point.budget_flops, one.run
    excess = np.log(run.learning_rate / (0.5 * compute**-0.2)) ** 2
    excess += 0.3 * np.log(run.batch_tokens / (0.02 * compute**0.4)) ** 2
    if one.study == "isoflop":
        excess = np.log(model_flops(one) / BEST_SIZE(compute)) ** 2
    return 30 * compute**-0.08 * (1 + 0.01 * excess)


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "ledger").mkdir()
    monkeypatch.setattr(paths, "DATA", tmp_path)
    return Place(ledger=tmp_path / "ledger", runs=tmp_path / "runs")


def write(place, study, records):
    for record in records:
        ledger.append(place.ledger / f"{study}.jsonl", record)


def test_best_cells_are_repeated_once_their_grid_is_complete(place):
    grid = plan("tuning", LAWS)
    write(place, "tuning", synthetic(grid[:-1], bowl))
    assert len(status.plan_now("tuning", place)) == len(grid) + 7 * 2
    write(place, "tuning", synthetic(grid[-1:], bowl))
    repeats = status.plan_now("tuning", place)
    assert len(repeats) == len(grid) + 8 * 2
    assert {task.run.seed for task in repeats} == {0, 1, 2}


def test_adoption_binds_the_laws_that_the_runs_follow(place):
    with pytest.raises(ValueError, match=r"law = 'tuning': cannot be adopted: 152 runs of study"):
        adopt("tuning", place)
    write(place, "tuning", synthetic(plan("tuning", LAWS), bowl))
    repeats = missing(status.plan_now("tuning", place), place)
    assert len(repeats) == 16
    write(place, "tuning", synthetic(repeats, bowl))
    path = adopt("tuning", place)
    found = adopted_laws().tuning
    assert set(found) == {f"{f}_{n}" for f in FAMILIES for n in ("learning_rate", "batch_tokens")}
    assert found["moe_learning_rate"](1e12) == pytest.approx(0.5 * 1e12**-0.2, rel=0.5)
    assert json.loads(path.read_text())["num_runs"] == 168
    with pytest.raises(ValueError, match=r"law = 'tuning': adopted already"):
        adopt("tuning", place)
    write(place, "isoflop", synthetic(plan("isoflop"), bowl))
    write(place, "isoflop", synthetic(missing(status.plan_now("isoflop", place), place), bowl))
    adopt("isoflop", place)
    sizes = adopted_laws().isoflop["dense_model"]
    assert isinstance(sizes, MeasuredSizes)
    assert set(sizes.compute) <= {1e11, 3e11, 1e12, 3e12, 1e13, 3e13}
    assert len(sizes.compute) >= 3
    for budget, optimum in zip(sizes.compute, sizes.optima, strict=True):
        assert sizes(budget) == pytest.approx(optimum)
        assert optimum == pytest.approx(BEST_SIZE(budget), rel=0.1)
    assert len(plan("activation")) > 50
    with pytest.raises(ValueError, match=r"law = 'leverage': cannot be adopted: \d+ runs of study"):
        adopt("leverage", place)
    with pytest.raises(ValueError, match=r"law = 'taste': must be one of"):
        adopt("taste", place)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff", b"[1]", b"{}", b'{"laws": 1}', b'{"a":' * 10**5,
        b'{"studies": [], "num_runs": 1, "runs_sha256": "", "laws": {"dense_model": 1}}',
        b'{"studies": [], "num_runs": 1, "runs_sha256": "", "laws": {"dense_model": {"a": 1}}}',
        b'{"studies": [], "num_runs": 1, "runs_sha256": "", "laws": {}, "optima": {"x": {}}}',
        b'{"studies": [], "num_runs": 1, "runs_sha256": "", "laws": {}, "optima": []}',
    ],
)  # fmt: skip
def test_a_file_that_is_no_adopted_law_is_named(place, content):
    path = adopted_path("isoflop")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^adopted law = '.*isoflop\.json': "):
        adopted_laws()


def test_laws_that_the_runs_do_not_tell_are_refused(place):
    falling = synthetic(plan("isoflop", LAWS), lambda one: 9 / model_flops(one) ** 0.1)
    write(place, "isoflop", falling)
    status.pin(place)
    table = ledger.table("isoflop", directory=place.ledger)
    with pytest.raises(ValueError, match=r"law = 'dense_model': cannot be fitted: isoFLOP optima"):
        adoption.measure("isoflop", table)


def model_flops(one):
    return count_forward_flops(one.run.model, SEQUENCE_LENGTH).non_embedding


def test_status_counts_what_is_done_missing_and_waiting(place):
    some = plan("tuning", LAWS)[:10]
    records = synthetic(some, bowl)
    records[0] |= {"status": "diverged", "validation_loss_nats": None}
    write(place, "tuning", records)
    found = status.status(place)
    assert found["finished"] == 9
    row = found["studies"]["tuning"]
    assert (row["planned"], row["done"], row["diverged"], row["missing"]) == (152, 9, 1, 142)
    assert "needs the tuning law" in found["studies"]["joint"]["waits"]
    assert set(found["studies"]) == {name for name in STUDIES if STUDIES[name].sweeps}


def test_verify_names_stale_runs_unless_they_carry_a_reason(place):
    known = plan("tuning", LAWS)[0]
    foreign = plan("activation", LAWS)[5]
    write(place, "tuning", synthetic([known], bowl))
    assert status.verify(place) == []
    stale = synthetic([foreign], bowl)[0] | {"study": "tuning"}
    write(place, "tuning", [stale | {"excluded": "trained before the rule was settled"}])
    assert status.verify(place) == []
    write(place, "unheard", [stale | {"study": "unheard"}])
    (problem,) = status.verify(place)
    assert problem == "unheard.jsonl: no study has this name"
    (place.ledger / "unheard.jsonl").unlink()
    other = synthetic(plan("activation", LAWS)[6:7], bowl)[0] | {"study": "tuning"}
    write(place, "tuning", [other])
    (problem,) = status.verify(place)
    assert problem.startswith(f"tuning.jsonl: run {other['run_id']} is stale")


def test_a_study_with_runs_that_cannot_be_planned_says_why(place, monkeypatch):
    write(place, "activation", synthetic(plan("activation", LAWS)[:1], bowl))

    def refuse(name, *args, **options):
        if name == "activation":
            raise ValueError("laws = None: the isoflop law is not adopted")
        return plan(name, LAWS, *args, **options)

    monkeypatch.setattr(status, "plan", refuse)
    (problem,) = [said for said in status.verify(place) if "activation" in said]
    assert problem == "activation.jsonl: laws = None: the isoflop law is not adopted"


def test_a_study_is_complete_when_all_it_plans_is_recorded(place):
    wanted = plan("tuning", LAWS)
    write(place, "tuning", synthetic(wanted[:-1], bowl))
    assert ledger.standing("tuning", place.ledger).planned == 0
    status.pin(place)
    assert (
        ledger.standing("tuning", place.ledger).words == "tuning: 151 of 166 runs"
    )  # 2 seeds more of 7 bests
    write(place, "tuning", synthetic(wanted[-1:], bowl))
    (problem,) = status.verify(place)  # the repetitions of the last best cell are planned now
    assert problem.startswith("plans.json: not what the studies plan now")
    status.pin(place)
    assert status.verify(place) == []
    assert ledger.standing("tuning", place.ledger).words == "tuning: 152 of 168 runs"
    have = ledger.statuses(place.ledger / "tuning.jsonl")
    again = [task for task in status.plan_now("tuning", place) if task.run_id not in have]
    write(place, "tuning", synthetic(again, bowl))
    assert ledger.standing("tuning", place.ledger).is_complete


def test_predicted_time_uses_the_speed_of_like_runs(place):
    one = plan("tuning", LAWS)[0]
    assert status.predicted_seconds([one], place)[one.run_id] == pytest.approx(
        count_training_flops(one.run) / status.ASSUMED_FLOPS_PER_SECOND
    )
    fast = synthetic([one], bowl)[0] | {"flops_per_second": 4e10}
    write(place, "tuning", [fast])
    assert status.predicted_seconds([one], place)[one.run_id] == pytest.approx(
        count_training_flops(one.run) / 4e10
    )


def test_the_ladder_rises():
    flops = [
        count_forward_flops(derive(Point(budget_flops=1e12, size=i), Laws()).model, 256).total
        for i in range(len(GEOMETRIES))
    ]
    assert flops == sorted(flops)


if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot())
