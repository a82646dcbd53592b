"""A study of runs of a fraction of a second; as a program it runs them, or kills their runners."""

import contextlib
import dataclasses
import json
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from joblib.externals.loky.backend.context import set_start_method

from moe_leverage.config import ModelConfig, RunConfig
from moe_leverage.corpus.tokens import Corpus
from moe_leverage.locks import holder
from moe_leverage.studies import runner
from moe_leverage.studies.backends import Pool
from moe_leverage.studies.place import Place, missing, recorded, steps_done
from moe_leverage.studies.protocol import Point
from moe_leverage.studies.sweeps import Planned
from moe_leverage.training import machine as execution

VOCABULARY = 32
DISK_BYTES = 100_000  # enough for a checkpoint of the toy model, not of one eight times as wide


def open_corpus(tier):
    """Text with something to learn: each token is mostly the one before plus one."""
    rng = np.random.default_rng(7)
    moves = np.where(rng.random(4_096) < 0.9, 1, rng.integers(0, VOCABULARY, 4_096))
    tokens = (moves.cumsum() % VOCABULARY).astype(np.uint16)
    return Corpus(
        tier=tier,
        digest="toy",
        vocab_size=VOCABULARY,
        train=tokens[:3_000],
        validation={"toy": tokens[3_000:]},
        bytes_per_token={"toy": 1.0},
    )


def toy_run(seed=0, num_steps=20, init_std=0.02, **changes):
    values = {
        "corpus": "smoke",
        "sequence_length": 16,
        "batch_sequences": 4,
        "num_steps": num_steps,
        "learning_rate": 1e-2,
        "seed": seed,
    }
    sizes = {"vocab_size": VOCABULARY, "num_layers": 1, "d_model": 8, "num_heads": 2}
    experts = {"num_experts": 4, "num_active_experts": 2, "num_shared_experts": 1, "d_expert": 4}
    model = ModelConfig(**sizes, **experts, num_kv_heads=1, init_std=init_std)
    return RunConfig(
        model=model,
        **(values | changes),
    )


def toy_plan(count, num_steps=20, **changes):
    return [
        Planned(
            study="toy",
            sweep="seeds",
            point=Point(budget_flops=1e6, seed=seed),
            run=toy_run(seed, num_steps, **changes),
        )
        for seed in range(count)
    ]


def domains_corpus(tier):
    """The toy corpus in two domains, a half each."""
    whole = open_corpus(tier)
    (held,) = whole.validation.values()
    return dataclasses.replace(
        whole,
        validation={"one": held[:500], "two": held[500:]},
        bytes_per_token={"one": 1.0, "two": 1.0},
        train_domains=np.array([[1_500, 0], [3_000, 1]], np.uint32),
    )


def chain_plan(count):
    """Seed models, two branches of each, and a mixture of their attentions and FFNs."""
    plan = []
    for seed in range(count):
        mixture = dataclasses.replace(
            toy_run().model, num_experts=2, num_active_experts=1, num_shared_experts=0,
            d_shared=0, d_expert=8, num_attention_experts=2,
        )  # fmt: skip
        dense = dataclasses.replace(
            mixture, num_experts=0, num_active_experts=0, d_expert=0, d_ffn=8,
            num_attention_experts=0,
        )  # fmt: skip
        first = dataclasses.replace(toy_run(seed, 12), model=dense)
        branches = tuple(
            dataclasses.replace(first, domain=domain, parents=(first,), num_steps=20)
            for domain in ("one", "two")
        )
        last = dataclasses.replace(first, model=mixture, parents=branches, num_steps=30)
        for run in (first, *branches, last):
            awaited = {first: branches, last: ()}.get(run, (last,))
            plan.append(
                Planned(
                    study="toy",
                    sweep="chain",
                    point=Point(budget_flops=1e6, seed=seed),
                    run=run,
                    awaited_by=tuple(stage.identity() for stage in awaited),
                )
            )
    return plan


def toy_place(folder, corpus=open_corpus):
    folder = Path(folder)
    return Place(ledger=folder / "ledger", runs=folder / "runs", open_corpus=corpus)


@contextlib.contextmanager
def files_of_at_most(size):
    """No file grows beyond `size`: a write stops in its middle, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def losses(place, study="toy"):
    """Validation loss of every record of a study, by run, duplicates kept."""
    lines = (place.ledger / f"{study}.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return sorted((record["run_id"], record["validation_loss_nats"]) for record in records)


def deadly_corpus(tier):
    """The toy corpus, but opening the full tier kills the process, as the kernel does to a hog."""
    if tier == "full":
        os.kill(os.getpid(), signal.SIGKILL)
    return open_corpus(tier)


def run_plan(plan, place, workers=2, **options):
    """The outcomes of a plan on forked workers, which start faster than fresh ones."""
    set_start_method("fork", force=True)
    pool = Pool(workers=workers, threads=1, device="cpu", **options)
    return runner.run(plan, pool=pool, place=place)


def trouble(folder):
    """Runs that go well beside a divergence, a misfit, a checkpoint too large, and a killer."""
    place = toy_place(folder, deadly_corpus)
    good = toy_plan(3)
    diverging = toy_plan(1, 200, learning_rate=9.0, gradient_clip=1e6, adam_beta2=0.0)
    misfit = toy_plan(1, sequence_length=2_000)
    deadly = toy_plan(1, corpus="full")
    large = dataclasses.replace(good[0].run.model, d_model=64, d_expert=64)
    crowded = [
        dataclasses.replace(task, run=dataclasses.replace(task.run, model=large))
        for task in toy_plan(1)
    ]
    named = {"good": good, "diverging": diverging, "misfit": misfit, "deadly": deadly}
    named |= {"crowded": crowded}
    with files_of_at_most(DISK_BYTES):
        outcomes = {done.run_id: done for done in run_plan([*chain(*named.values())], place)}
    return {
        name: [dataclasses.asdict(outcomes[task.run_id]) for task in plan]
        for name, plan in named.items()
    }


def storm(folder, kills, seed, chains=0):
    """Kill the runner, its workers or all of them, again and again; then let it finish."""
    choose = random.Random(seed)
    corpus = domains_corpus if chains else open_corpus
    place = toy_place(folder, corpus)
    plan = chain_plan(chains) if chains else toy_plan(30, 60)
    # Threads of torch must not exist before a fork; the measured peak needs none and is cached.
    torch.set_num_threads(1)
    execution._measured_peak(torch.device("cpu"), torch.float32, 1)
    done = Counter()
    while done.total() < kills:
        child = forked_runner(plan, place)
        while child and done.total() < kills:
            time.sleep(choose.uniform(0.02, 0.5))
            target = choose.choice(("runner", "group", "worker", "worker", "worker"))
            workers = [holder(path)[0] for path in place.runs.glob("*.lock")]
            alive = [pid for pid in workers if pid and is_alive(pid)]
            if target == "worker" and alive:
                os.kill(choose.choice(alive), signal.SIGKILL)
                done[target] += 1
            elif target == "runner":
                os.kill(child, signal.SIGKILL)
                done[target] += 1
            elif target == "group":
                os.killpg(child, signal.SIGKILL)
                done[target] += 1
            if os.waitpid(child, os.WNOHANG)[0]:
                child = 0
    calm = toy_place(Path(folder) / "calm", corpus)
    for here in (place, calm):
        os.waitpid(forked_runner(plan, here), 0)  # which sweeps, even if all was done
        while missing(plan, here):
            os.waitpid(forked_runner(plan, here), 0)
    return {
        "kills": dict(done),
        "left": sorted(path.name for path in place.runs.glob("*")),
        "losses": losses(place),
        "calm_losses": losses(calm),
    }


def stop(folder):
    """SIGTERM to a runner in the middle of its runs, then a second runner that goes on."""
    place = toy_place(folder)
    plan = toy_plan(3, 400)
    child = forked_runner(plan, place)
    while not any(steps_done(task, place) for task in plan):
        time.sleep(0.02)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    steps = [steps_done(task, place) for task in plan]
    num_recorded = len(recorded(place.ledger))
    outcomes = run_plan(plan, place)
    return {
        "steps": steps,
        "recorded": num_recorded,
        "states": [outcome.state for outcome in outcomes],
        "left": sorted(path.name for path in place.runs.glob("*")),
        "losses": losses(place),
    }


def twice(folder):
    """Two runners at the same time with the same plan."""
    place = toy_place(folder)
    plan = toy_plan(8, 60)
    for child in [forked_runner(plan, place) for _ in range(2)]:
        os.waitpid(child, 0)
    return {"losses": losses(place), "left": sorted(path.name for path in place.runs.glob("*"))}


def cluster(folder, backend):
    """A plan on two worker processes of a Dask or Ray cluster on this machine."""
    place = toy_place(folder)
    plan = toy_plan(4)
    if backend == "dask":
        from distributed import LocalCluster

        options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
        with LocalCluster(**options) as there:
            pool = Pool(workers=2, backend="dask", address=there.scheduler_address)
            outcomes = runner.run(plan, pool=pool, place=place)
    else:
        outcomes = runner.run(plan, pool=Pool(workers=2, backend="ray"), place=place)
    return {"states": [outcome.state for outcome in outcomes], "losses": losses(place)}


def forked_runner(plan, place):
    """The process id of a child, leader of its own group, that runs the plan."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    with Path(os.devnull).open("w") as silence, contextlib.redirect_stderr(silence):
        try:
            run_plan(plan, place, checkpoint_seconds=0.05)
        finally:
            os._exit(0)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    mode, folder, *rest = sys.argv[1:]
    modes = {"trouble": trouble, "storm": storm, "stop": stop, "twice": twice, "cluster": cluster}
    print(
        json.dumps(
            modes[mode](
                folder, *(int(argument) if argument.isdigit() else argument for argument in rest)
            )
        )
    )
