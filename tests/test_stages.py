"""Runs on one domain, and runs that begin from others: what they see, cost, keep and refuse."""

import contextlib
import dataclasses
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from toy import CORPUS, CPU, DENSE, MOE, run_of

from moe_leverage import corpus, ledger, stages
from moe_leverage.accounting import count_training_flops
from moe_leverage.config import RoutingConfig, RunConfig
from moe_leverage.model.upcycling import upcycled
from moe_leverage.stages import DOMAINS, behind, require_chain, sequences_before
from moe_leverage.studies import catalogue, rounds, runner
from moe_leverage.studies.backends import Pool
from moe_leverage.studies.place import Place, missing, ready, recorded
from moe_leverage.studies.protocol import Laws, Point
from moe_leverage.studies.sweeps import Planned, Study, Sweep
from moe_leverage.training import chain, learning, loop
from moe_leverage.training.chain import train_chain
from moe_leverage.training.loop import own_share, require_fit, train, trained_model
from moe_leverage.training.machine import Execution, machine_of

FFN_ONLY = dataclasses.replace(
    DENSE, d_ffn=0, num_dense_layers=0, num_experts=2, num_active_experts=1, d_expert=DENSE.d_ffn,
    routing=RoutingConfig(renormalise=True),
)  # fmt: skip
FULL = dataclasses.replace(FFN_ONLY, num_attention_experts=2)
SHARED = dataclasses.replace(FULL, shares_key_values=True)
SEED = run_of(DENSE, num_steps=6)
BRANCHES = tuple(
    dataclasses.replace(SEED, domain=domain, parents=(SEED,), num_steps=5)
    for domain in ("one", "three")
)
CONTINUED = dataclasses.replace(SEED, parents=(SEED,))
MIXTURES = {
    name: dataclasses.replace(SEED, model=model, parents=BRANCHES)
    for name, model in {"ffn-only": FFN_ONLY, "full": FULL, "shared": SHARED}.items()
}
FULL_RUN = MIXTURES["full"]


def drawn(run):
    """Every sequence that a run sees, in its order."""
    with machine_of(CPU) as machine:
        shares = [own_share(run, CORPUS, step, machine) for step in range(run.num_steps)]
    return torch.cat(shares).tolist()


# --- domains -------------------------------------------------------------------------------


def test_a_run_of_a_domain_sees_its_text_alone_each_sequence_once():
    for domain, text in {"one": CORPUS.train[:2_048], "three": CORPUS.train[2_048:]}.items():
        own = Counter(tuple(text[at : at + 17].tolist()) for at in range(0, 127 * 16, 16))
        seen = Counter(map(tuple, drawn(run_of(DENSE, domain=domain, num_steps=15))))
        assert seen.total() == 120
        assert seen <= own


def test_a_domain_that_is_not_there_or_would_repeat_its_text_is_refused_before_work(monkeypatch):
    monkeypatch.setattr(loop, "start", lambda *rest: pytest.fail("began"))
    with pytest.raises(ValueError, match=r"^domain = 'two': must be one of one, three"):
        train(run_of(DENSE, domain="two"), corpus=CORPUS, execution=CPU)
    rule = r"^num_steps = 16: would repeat text: 127 sequences less 0 seen before are left of it"
    with pytest.raises(ValueError, match=rule):
        train(run_of(DENSE, domain="one", num_steps=16), corpus=CORPUS, execution=CPU)
    bare = dataclasses.replace(CORPUS, train_domains=None)
    with pytest.raises(ValueError, match=r"^domain = 'one': needs the index of domains; run moe-l"):
        train(run_of(DENSE, domain="one"), corpus=bare, execution=CPU)


def test_runs_without_a_domain_or_parents_keep_their_identity():
    assert not {"domain", "parents"} & set(run_of(DENSE).departures())
    plain = run_of(DENSE).to_dict()
    del plain["domain"], plain["parents"]
    assert RunConfig.from_dict(plain) == run_of(DENSE)


# --- chains --------------------------------------------------------------------------------


def test_the_identity_of_a_stage_is_that_of_its_whole_chain():
    for run in (*BRANCHES, CONTINUED, *MIXTURES.values()):
        again = RunConfig.from_dict(json.loads(json.dumps(run.to_dict())))
        assert again == run
        assert again.identity() == run.identity()
    other = dataclasses.replace(SEED, learning_rate=2e-2)
    branches = tuple(dataclasses.replace(branch, parents=(other,)) for branch in BRANCHES)
    moved = dataclasses.replace(FULL_RUN, parents=branches)
    assert moved.identity() != FULL_RUN.identity()
    assert {run.seed for run in (*behind(FULL_RUN.with_seed(4)), FULL_RUN.with_seed(4))} == {4}


def test_a_stage_goes_on_in_the_text_where_its_chain_stopped():
    seen, after = drawn(SEED), drawn(FULL_RUN)
    assert seen + after == drawn(dataclasses.replace(SEED, num_steps=12))
    assert drawn(CONTINUED) == after
    assert sequences_before(BRANCHES[0]) == 0  # of its domain nothing was seen as such
    further = dataclasses.replace(FULL_RUN, parents=(FULL_RUN,))
    assert sequences_before(further) == 96
    further_on_its_domain = dataclasses.replace(BRANCHES[0], parents=(BRANCHES[0],))
    assert sequences_before(further_on_its_domain) == 40
    rule = r"^num_steps = 26: would repeat text: 255 sequences less 48 seen before are left"
    with pytest.raises(ValueError, match=rule):
        require_fit(dataclasses.replace(CONTINUED, num_steps=26), CORPUS, CPU)


def test_compute_is_charged_with_and_without_what_lies_behind():
    own = {run: count_training_flops(run) for run in (SEED, *BRANCHES, FULL_RUN)}
    described = ledger.describe(FULL_RUN)
    assert described["training_flops"] == own[FULL_RUN]
    assert described["chain_training_flops"] == sum(own.values())  # the seed once, for two branches
    assert described["parent_ids"] == [branch.identity() for branch in BRANCHES]
    assert "chain_training_flops" not in ledger.describe(SEED)


def test_a_stage_begins_with_the_last_weights_of_its_parents_and_a_fresh_optimiser(
    tmp_path, monkeypatch
):
    begun = {}

    def noted(run, machine, parents=()):
        state = learning.start(run, machine, parents)
        weights = {name: w.detach().clone() for name, w in state.model.named_parameters()}
        begun[run] = (weights, dict(state.optimiser.state))
        return state

    monkeypatch.setattr(loop, "start", noted)
    for run in (FULL_RUN, CONTINUED):
        train_chain(
            run, corpus=CORPUS, execution=CPU, checkpoint_directory=tmp_path / run.identity()
        )
    folder = tmp_path / FULL_RUN.identity() / chain.PARENTS
    seed, *branches = (trained_model(run, folder / run.identity()) for run in behind(FULL_RUN))
    wanted = {
        **dict.fromkeys((*BRANCHES, CONTINUED), seed),
        FULL_RUN: upcycled(branches, FULL, FULL_RUN.seed),
    }
    for run, model in wanted.items():
        weights, moments = begun[run]
        assert moments == {}
        for name, weight in model.named_parameters():
            assert torch.equal(weights[name], weight), name
    changed = (p != q for p, q in zip(*(b.parameters() for b in branches), strict=True))
    assert any(bool(part.any()) for part in changed)


def test_a_mixture_is_continued_with_the_biases_of_its_routers():
    routing = RoutingConfig(bias_update_rate=0.1, balance_coefficient=0.0)
    parent = run_of(dataclasses.replace(MOE, routing=routing))
    with machine_of(CPU) as machine:
        state = learning.start(parent, machine)
        for bias in state.model.buffers():
            bias.add_(torch.arange(bias.numel(), dtype=bias.dtype).view_as(bias))
        begun = learning.start(
            dataclasses.replace(parent, parents=(parent,)), machine, [state.model]
        )
    buffers = dict(begun.model.named_buffers())
    assert buffers
    assert all(torch.equal(b, buffers[name]) for name, b in state.model.named_buffers())


@pytest.mark.parametrize("name", MIXTURES)
def test_a_chain_interrupted_anywhere_ends_as_one_that_was_not(name, tmp_path, monkeypatch):
    run = MIXTURES[name]
    calm = train_chain(run, corpus=CORPUS, execution=CPU)
    assert calm["run_id"] == run.identity()
    steps, often = [], Execution(device="cpu", threads=1, checkpoint_seconds=1e-9)
    total = sum(one.num_steps for one in (*behind(run), run))
    killed_at = {4, 9, 13, 18}  # in the seed, in each branch, in the mixture

    def learn(state, of, *rest):
        steps.append(of)
        if len(steps) in killed_at:
            raise KeyboardInterrupt
        return learning.learn(state, of, *rest)

    monkeypatch.setattr(loop, "learn", learn)
    for _ in killed_at:
        with pytest.raises(KeyboardInterrupt):
            train_chain(run, corpus=CORPUS, execution=often, checkpoint_directory=tmp_path)
    found = train_chain(run, corpus=CORPUS, execution=often, checkpoint_directory=tmp_path)
    assert len(steps) == total + len(killed_at)  # nothing finished was done again
    for value in ("validation_loss_nats", "training_loss_curve_nats", "validation"):
        assert found[value] == calm[value]


# --- mistakes ------------------------------------------------------------------------------


def stage(model=FULL, parents=BRANCHES, **changes):
    return dataclasses.replace(SEED, model=model, parents=parents, **changes)


WIDER = dataclasses.replace(DENSE, d_ffn=48)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (stage(parents=(SEED, BRANCHES[0])), r"domain = \['', 'one'\]: must be a domain for each"),
        (
            stage(parents=BRANCHES[:1] * 2),
            r"domain = \['one', 'one'\]: must be a domain for each b",
        ),
        (stage(parents=BRANCHES[:1]), "d_ffn = 0: must be that of the run it continues, 32"),
        (stage(WIDER, (SEED,)), "d_ffn = 48: must be that of the run it continues, 32"),
        (
            stage(parents=(BRANCHES[0], dataclasses.replace(BRANCHES[1], model=WIDER))),
            "d_ffn = 48: must be that of the run it continues, 32",
        ),
        (
            stage(parents=(BRANCHES[0], run_of(WIDER, domain="three"))),
            "branches = 2: must be of one shape",
        ),
        (
            stage(parents=(*BRANCHES, run_of(DENSE, domain="two"))),
            "num_experts = 2: must be the number of branches, 3",
        ),
        (stage(seed=1), "batch_seed = 1: must be that of the runs it begins from, 0"),
        (stage(sequence_length=8), "sequence_length = 8: must be that of the runs it begins from"),
        (stage(corpus="full"), "corpus = 'full': must be that of the runs it begins from, smoke"),
    ],
)
def test_a_stage_that_cannot_begin_is_refused_before_work(run, message, monkeypatch):
    monkeypatch.setattr(loop, "start", lambda *rest: pytest.fail("began"))
    with pytest.raises(ValueError, match=f"^{message}"):
        require_chain(run)
    corpus = dataclasses.replace(CORPUS, tier=run.corpus)
    with pytest.raises(ValueError, match=f"^{message}"):
        train_chain(run, corpus=corpus, execution=CPU)


def test_a_stage_without_its_parents_models_and_a_shared_chain_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"^parents = 0: must be the trained models of the 2 runs"):
        train(FULL_RUN, corpus=CORPUS, execution=CPU)
    monkeypatch.setattr(chain, "share_of_torchrun", lambda: (2, 0))
    with pytest.raises(ValueError, match=r"^parents = 2: a run that begins from others is trained"):
        train_chain(FULL_RUN, corpus=CORPUS, execution=CPU)


def test_nothing_begins_from_a_run_that_diverged(monkeypatch):
    monkeypatch.setattr(loop, "learn", lambda *rest: False)
    seed = SEED.identity()
    with pytest.raises(ValueError, match=f"^parents = '{seed}': diverged, so that nothing can"):
        train_chain(CONTINUED, corpus=CORPUS, execution=CPU)


# --- studies -------------------------------------------------------------------------------


def toy_derive(point, laws):
    model = DENSE if point.dense else FFN_ONLY
    return run_of(model, num_steps=5, seed=point.seed).with_settings(point.settings)


def sweep(name, after="", **axes):
    base = Point(budget_flops=1e6, dense=name != "mixtures")
    return Sweep(
        name=name, base=base, after=after, derive=toy_derive, where=lambda *_: True,
        axes={"seed": (0, 1), **axes},
    )  # fmt: skip


KINDS = ({}, {"num_attention_experts": 2}, {"num_attention_experts": 2, "shares_key_values": True})
SWEEPS = (
    sweep("seed"),
    sweep("branches", "seed", domain=("one", "three")),
    sweep("mixtures", "branches", kind=KINDS),
    sweep("continued", "seed"),
)


@pytest.fixture
def planned(monkeypatch):
    study = Study(name="toy", answers="does it hold together?", sweeps=SWEEPS, role="variant")
    monkeypatch.setitem(catalogue.STUDIES, "toy", study)
    return catalogue.plan("toy", Laws())


@pytest.fixture
def place(tmp_path):
    return Place(
        ledger=tmp_path / "ledger", runs=tmp_path / "runs", open_corpus=lambda tier: CORPUS
    )


POOL = Pool(device="cpu", compile=False)


def test_the_runs_of_a_sweep_begin_from_those_of_their_seed_in_the_one_before(planned):
    by_sweep = {s.name: [t for t in planned if t.sweep == s.name] for s in SWEEPS}
    assert {name: len(tasks) for name, tasks in by_sweep.items()} == {
        "seed": 2, "branches": 4, "mixtures": 6, "continued": 2,
    }  # fmt: skip
    for task in by_sweep["mixtures"]:
        assert [parent.domain for parent in task.run.parents] == ["one", "three"]
        assert {run.seed for run in behind(task.run)} == {task.run.seed}
    for task in by_sweep["seed"]:
        stages_of = {t.run_id for t in planned if task.run in t.run.parents}
        assert set(task.awaited_by) == stages_of
        assert len(stages_of) == 3
    assert not any(task.awaited_by for task in by_sweep["mixtures"])


@pytest.mark.parametrize(
    ("sweeps", "message"),
    [
        ((sweep("seed", "branches"), sweep("branches", "seed")), "toy.after = 'branches': must be"),
        (
            (sweep("seed", "seed"),),
            "toy.after = 'seed': must be a sweep before seed: there is none",
        ),
        (
            (sweep("seed"), sweep("branches", "sed")),
            "toy.after = 'sed': must be a sweep before bra",
        ),
    ],
)
def test_a_circle_of_sweeps_or_one_that_is_not_there_is_refused(sweeps, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Study(name="toy", answers="", sweeps=sweeps)


@pytest.mark.parametrize(
    ("axes", "name", "message"),
    [
        ({"seed": (0, 7)}, "branches", "seed = 7: no run of the sweep seed has it, from which"),
        ({}, "mixtures", "d_ffn = 0: must be that of the run it continues, 32"),
        ({"parents": ((),)}, "branches", r"parents = \(\): follows from the sweep that it goes on"),
    ],
)
def test_a_stage_that_cannot_be_planned_is_refused(axes, name, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        plan_of(sweep_axes=axes, name=name)


def plan_of(*, sweep_axes, name):
    sweeps = (sweep("seed"), sweep(name, "seed", **sweep_axes))
    return list(catalogue.cells(Study(name="toy", answers="", sweeps=sweeps), Laws()))


def train_all(planned, place):
    """Generation by generation, in this process; what stands in `runs` after each run."""
    kept = []
    while tasks := ready(missing(planned, place), place):
        for task in tasks:
            assert runner.run_one(task, POOL, place).state == "ok"
            kept.append((task, {path.name for path in place.runs.iterdir()}))
        runner.sweep_leftovers(place)
    return kept


def test_a_study_of_stages_keeps_weights_as_long_as_they_are_awaited(planned, place):
    kept = train_all(planned, place)
    assert len(kept) == len(planned)
    order = [task.sweep for task, _ in kept]
    assert order.index("branches") > order.index("seed") + 1
    assert order.index("mixtures") > max(i for i, name in enumerate(order) if name == "branches")
    done = set()
    for task, there in kept:
        done.add(task.run_id)
        needed = {t.run_id for t in planned if t.run_id in done and set(t.awaited_by) - done}
        assert needed <= there  # another process that sweeps meanwhile does not take them
    assert list(place.runs.iterdir()) == []
    assert ledger.verify(place.ledger) == []
    ledger.write_plans(
        {"toy": {"role": "variant", "runs": [], "varies": ["num_parents"]}}, place.ledger
    )
    table = ledger.table("toy", directory=place.ledger)
    by_id = table.set_index("run_id")
    for task in planned:
        row = by_id.loc[task.run_id]
        assert row["num_parents"] == len(task.run.parents)
        assert row["chain_flops"] == stages.chain_flops(task.run)
        assert (row["chain_flops"] == row["training_flops"]) == (not task.run.parents)
    assert table["config_id"].nunique() == len(planned) / 2  # two seeds of each setting
    mixture = next(task for task in planned if task.run.model.shares_key_values)
    again = train_chain(mixture.run, corpus=CORPUS, execution=CPU)  # from its config alone
    assert again["validation_loss_nats"] == by_id.loc[mixture.run_id, "loss_nats"]


def test_weights_that_are_gone_are_trained_again_without_a_second_record(planned, place):
    (seed,) = (task for task in planned if task.sweep == "seed" and task.point.seed == 0)
    (stage,) = (task for task in planned if task.sweep == "continued" and task.point.seed == 0)
    assert runner.run_one(seed, POOL, place).state == "ok"
    shutil.rmtree(place.runs / seed.run_id)
    assert runner.run_one(stage, POOL, place).state == "ok"
    calm = train_chain(stage.run, corpus=CORPUS, execution=CPU)
    assert (
        ledger.find(stage.run_id, place.ledger)["validation_loss_nats"]
        == calm["validation_loss_nats"]
    )
    assert set(recorded(place.ledger)) == {seed.run_id, stage.run_id}
    assert len(list(ledger.records(place.ledger / "toy.jsonl"))) == 2


def test_rounds_follow_the_generations_and_name_what_could_not_begin(planned, place, monkeypatch):
    """The seed model of seed 1 fails: its stages wait, those of seed 0 are trained."""
    lost = next(t for t in planned if t.sweep == "seed" and t.point.seed == 1)

    def in_this_process(waiting, **rest):
        outcomes = []
        for task in ready(missing(waiting, place), place):
            failed = runner.Outcome(study="toy", run_id=task.run_id, state="failed")
            outcomes.append(failed if task == lost else runner.run_one(task, POOL, place))
        return outcomes

    monkeypatch.setattr(rounds.runner, "run", in_this_process)
    monkeypatch.setattr(rounds, "planned_now", lambda studies, place: planned)
    found = rounds.run_rounds(["toy"], POOL, place, lambda *rest: contextlib.nullcontext())
    states = {o.run_id: o.state for o in found}
    assert len(states) == len(planned)
    for task in planned:
        expected = "ok" if task.point.seed == 0 else "failed" if task == lost else "waiting"
        assert states[task.run_id] == expected


def test_rounds_go_on_after_a_run_that_another_study_has_recorded(planned, place, monkeypatch):
    seeds = [task for task in planned if task.sweep == "seed"]
    for seed in seeds:
        assert runner.run_one(dataclasses.replace(seed, study="other"), POOL, place).state == "ok"

    def in_this_process(waiting, **rest):
        runner.share(planned, place)
        return [runner.run_one(t, POOL, place) for t in ready(missing(waiting, place), place)]

    monkeypatch.setattr(rounds.runner, "run", in_this_process)
    monkeypatch.setattr(rounds, "planned_now", lambda studies, place: planned)
    found = rounds.run_rounds(["toy"], POOL, place, lambda *rest: contextlib.nullcontext())
    assert {o.state for o in found} == {"ok"}
    assert len(found) == len(planned) - len(seeds)
    assert set(ledger.statuses(place.ledger / "toy.jsonl")) == {task.run_id for task in planned}


# --- on the small corpus -------------------------------------------------------------------


def test_a_chain_of_four_domains_holds_on_the_small_corpus_from_seed_to_bam(place):
    """Of one shape, the study's own chain: its losses by domain, and again from its last config."""
    tokens = corpus.build_corpus("smoke")  # which adds the index to one that was built without
    shape = dataclasses.replace(DENSE, vocab_size=tokens.vocab_size)
    mixture = dataclasses.replace(
        FULL, vocab_size=tokens.vocab_size, num_experts=4, num_active_experts=2,
        num_attention_experts=4, shares_key_values=True,
    )  # fmt: skip
    seed = run_of(shape, num_steps=8, sequence_length=64, validation_tokens=1_000)
    branches = tuple(
        dataclasses.replace(seed, domain=domain, parents=(seed,), num_steps=12)
        for domain in DOMAINS
    )
    last = dataclasses.replace(seed, model=mixture, parents=branches, num_steps=4)
    tasks = [
        Planned(study="toy", sweep=run.domain, point=Point(budget_flops=1e6), run=run)
        for run in (seed, *branches, last)
    ]
    small = dataclasses.replace(place, open_corpus=lambda tier: tokens)
    for task in tasks:
        assert runner.run_one(task, POOL, small).state == "ok"
    found = {run_id: ledger.find(run_id, small.ledger) for run_id in recorded(small.ledger)}
    assert len(found) == 6
    losses = {  # of each domain: what the branches that were trained on each say of it
        branch.domain: {
            name: row["loss_nats"] for name, row in found[branch.identity()]["validation"].items()
        }
        for branch in branches
    }
    own = np.mean([losses[domain][domain] for domain in DOMAINS])
    foreign = np.mean([losses[a][b] for a in DOMAINS for b in DOMAINS if a != b])
    assert own < foreign - 0.05
    assert set(found[last.identity()]["validation"]) == set(DOMAINS)
    again = train_chain(last, corpus=tokens, execution=CPU)
    assert again["validation_loss_nats"] == found[last.identity()]["validation_loss_nats"]
