"""Every planned run ends in the ledger exactly once, whoever is killed, and trouble has a name."""

import dataclasses
import errno
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import lock_descriptor, unlock_descriptor
from safetensors.torch import load_file, save_file
from toy_study import (
    chain_plan,
    domains_corpus,
    files_of_at_most,
    losses,
    open_corpus,
    toy_place,
    toy_plan,
    toy_run,
)

from moe_leverage import ledger, paths
from moe_leverage.locks import claim, holder, is_claimed
from moe_leverage.studies import runner
from moe_leverage.studies.backends import Pool
from moe_leverage.studies.place import Place, in_progress, missing, recorded, steps_done
from moe_leverage.studies.protocol import Laws, Point, derive
from moe_leverage.studies.runner import run_one
from moe_leverage.training import checkpoint, loop
from moe_leverage.training.chain import train_chain
from moe_leverage.training.loop import train
from moe_leverage.training.machine import Execution

PROGRAM = Path(__file__).parent / "toy_study.py"
KILLS = 50
POOL = Pool(device="cpu")


def toy_program(*arguments):
    """What the toy study prints: it forks runners and workers, which pytest itself should not."""
    # The package under test, which need not be the one installed: workers on another checkout's
    # code once gave losses that differed in the ninth digit.
    package = os.pathsep.join(map(str, (PROGRAM.parent, paths.PACKAGE.parent)))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": package}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "300"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(PROGRAM), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def undisturbed(run):
    record = train(run, corpus=open_corpus("smoke"), execution=Execution(device="cpu", threads=1))
    return record["validation_loss_nats"]


@pytest.mark.slow
def test_a_run_is_compiled_where_that_repays_unless_it_is_said_otherwise(monkeypatch):
    long_run = derive(Point(budget_flops=1e12), Laws())
    assert runner._repays_compiling(long_run)
    assert not runner._repays_compiling(derive(Point(budget_flops=3e11), Laws()))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not runner._repays_compiling(long_run)
    assert Pool().compile is None


def test_fifty_kills_lose_nothing_double_nothing_and_change_nothing(tmp_path):
    found = toy_program("storm", tmp_path, KILLS, 1)
    kills = found["kills"]
    assert sum(kills.values()) == KILLS
    assert min(kills[target] for target in ("runner", "worker", "group")) >= 3
    run_ids = [run_id for run_id, _ in found["losses"]]
    assert len(set(run_ids)) == len(run_ids) == 30
    assert found["losses"] == found["calm_losses"]
    assert found["left"] == []


@pytest.mark.slow
def test_kills_do_not_change_a_chain_nor_leave_its_weights_behind(tmp_path):
    found = toy_program("storm", tmp_path, 15, 2, 2)
    assert sum(found["kills"].values()) == 15
    plan = chain_plan(2)
    assert [run_id for run_id, _ in found["losses"]] == sorted(task.run_id for task in plan)
    assert found["losses"] == found["calm_losses"]
    assert found["left"] == []
    last = plan[3].run
    record = train_chain(
        last, corpus=domains_corpus("smoke"), execution=Execution(device="cpu", threads=1)
    )
    assert dict(found["losses"])[last.identity()] == record["validation_loss_nats"]


@pytest.mark.slow
def test_trouble_is_reported_by_name_and_the_rest_goes_on(tmp_path):
    found = toy_program("trouble", tmp_path)
    state = {name: [outcome["state"] for outcome in plan] for name, plan in found.items()}
    assert state.pop("good") == ["ok"] * 3
    assert state == {
        "diverging": ["diverged"],
        "misfit": ["failed"],
        "crowded": ["failed"],
        "deadly": ["failed"],
    }
    assert "sequence_length = 2000: toy has" in found["misfit"][0]["reason"]
    assert "its worker process died 2 times, alone" in found["deadly"][0]["reason"]
    assert "File too large" in found["crowded"][0]["reason"]
    records = ledger.table("toy", directory=tmp_path / "ledger")
    assert len(records) == records["run_id"].nunique() == 4
    assert ledger.verify(tmp_path / "ledger") == []
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [found["crowded"][0]["run_id"]]


@pytest.mark.slow
def test_a_stopped_runner_keeps_checkpoints_and_the_next_goes_on(tmp_path):
    found = toy_program("stop", tmp_path)
    assert any(0 < steps < 400 for steps in found["steps"])
    assert found["recorded"] == 0
    assert found["states"] == ["ok"] * 3
    assert found["left"] == []
    plan = toy_plan(3, 400)
    assert dict(found["losses"])[plan[0].run_id] == undisturbed(plan[0].run)


def test_a_run_that_begins_after_the_stop_is_told_as_well(tmp_path):
    place = toy_place(tmp_path)
    place.runs.mkdir(parents=True, exist_ok=True)
    program = "import sys, time; from pathlib import Path; from moe_leverage.locks import claim\n"
    program += "with claim(Path(sys.argv[1])):\n    time.sleep(60)"
    with runner._stopping(place) as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        late = subprocess.Popen([sys.executable, "-c", program, place.runs / "late.lock"])
        assert late.wait(timeout=30) == -signal.SIGTERM
    assert stopping.is_set()


@pytest.mark.slow
def test_two_runners_at_once_do_no_run_twice(tmp_path):
    found = toy_program("twice", tmp_path)
    assert [run_id for run_id, _ in found["losses"]] == sorted(
        task.run_id for task in toy_plan(8, 60)
    )
    assert found["left"] == []


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_clusters_give_the_losses_of_this_process(tmp_path, backend, module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"the extra {backend} is not installed")
    found = toy_program("cluster", tmp_path, backend)
    assert found["states"] == ["ok"] * 4
    assert dict(found["losses"]) == {task.run_id: undisturbed(task.run) for task in toy_plan(4)}


def test_one_run_is_recorded_once_and_its_traces_go(tmp_path):
    place, (task,) = toy_place(tmp_path), toy_plan(1)
    assert missing([task], place) == [task]
    assert run_one(task, POOL, place).state == "ok"
    assert run_one(task, POOL, place).state == "recorded"
    assert losses(place) == [(task.run_id, undisturbed(task.run))]
    assert missing([task], place) == []
    assert list(place.runs.iterdir()) == []


def test_a_run_that_another_process_holds_is_left_to_it(tmp_path):
    place, (task,) = toy_place(tmp_path), toy_plan(1)
    with claim(place.runs / f"{task.run_id}.lock") as is_mine:
        assert is_mine
        assert in_progress(task, place)
        assert run_one(task, POOL, place).state == "elsewhere"
    assert not in_progress(task, place)
    assert not recorded(place.ledger)


def test_a_folder_where_a_lock_belongs_is_named_and_the_rest_goes_on(tmp_path):
    place, tasks = toy_place(tmp_path), toy_plan(2)
    lock = place.runs / f"{tasks[0].run_id}.lock"
    (lock / "inside").mkdir(parents=True)
    states = {outcome.run_id: outcome for outcome in runner.run(tasks, pool=POOL, place=place)}
    assert [states[task.run_id].state for task in tasks] == ["failed", "ok"]
    assert "is a folder where a lock belongs; remove it" in states[tasks[0].run_id].reason
    assert "Errno" not in states[tasks[0].run_id].reason
    assert not in_progress(tasks[0], place)
    assert runner.run(tasks[1:], pool=POOL, place=place) == []
    assert (lock / "inside").is_dir()


@pytest.mark.parametrize("module", [ledger, checkpoint])
def test_a_full_disk_fails_by_name_and_the_run_goes_on_later(tmp_path, monkeypatch, module):
    place, (task,) = toy_place(tmp_path), toy_plan(1)
    run_one(toy_plan(2)[1], POOL, place)
    before = losses(place)

    def full(*rest, **more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    name = "append" if module is ledger else "save"
    monkeypatch.setattr(module, name, full)
    outcome = run_one(task, POOL, place)
    assert outcome.state == "failed"
    assert "No space left on device" in outcome.reason
    assert losses(place) == before
    monkeypatch.undo()
    assert run_one(task, POOL, place).state == "ok"
    assert dict(losses(place)) == dict(before) | {task.run_id: undisturbed(task.run)}


def test_a_line_that_the_disk_cuts_short_costs_no_record(tmp_path):
    place, plan = toy_place(tmp_path), toy_plan(12)
    for task in plan[:-1]:
        run_one(task, POOL, place)
    path, before = place.ledger / "toy.jsonl", losses(place)
    room = path.stat().st_size + 100
    with files_of_at_most(room):
        outcome = run_one(plan[-1], POOL, place)
    assert outcome.state == "failed"
    assert "File too large" in outcome.reason
    assert path.stat().st_size == room
    found = [(record["run_id"], record["validation_loss_nats"]) for record in ledger.records(path)]
    assert sorted(found) == before
    assert missing(plan, place) == [plan[-1]]
    assert run_one(plan[-1], POOL, place).state == "ok"
    assert [pair for pair in losses(place) if pair[0] != plan[-1].run_id] == before
    assert len(losses(place)) == 12


def test_a_ledger_saved_by_another_writer_is_not_trained_again(tmp_path):
    place, plan = toy_place(tmp_path), toy_plan(2)
    for task in plan:
        run_one(task, POOL, place)
    path = place.ledger / "toy.jsonl"
    lines = [json.dumps(json.loads(line), indent=None) for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines))  # spaces after colons, no end of the last line
    assert missing(plan, place) == []
    assert run_one(plan[1], POOL, place).state == "recorded"


def test_a_line_cut_short_by_a_kill_is_not_a_record_and_harms_no_other(tmp_path):
    place, plan = toy_place(tmp_path), toy_plan(2)
    run_one(plan[0], POOL, place)
    path = place.ledger / "toy.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole.replace(plan[0].run_id, plan[1].run_id)[:-40])
    assert missing(plan, place) == [plan[1]]
    assert run_one(plan[1], POOL, place).state == "ok"
    assert [run_id for run_id, _ in losses(place)] == sorted(task.run_id for task in plan)


def test_an_unreadable_checkpoint_is_named_and_the_run_begun_again(tmp_path):
    place, (task,) = toy_place(tmp_path), toy_plan(1)
    directory = place.runs / task.run_id
    directory.mkdir(parents=True)
    (directory / "checkpoint.json").write_text("{half a fi")
    outcome = run_one(task, POOL, place)
    assert outcome.state == "ok"
    assert "begun again, since its checkpoint could not be read: checkpoint = " in outcome.reason
    assert losses(place) == [(task.run_id, undisturbed(task.run))]


def crafted(directory, kind):
    """Make the checkpoint one whose digests are right and whose content is not."""
    index_path = directory / "checkpoint.json"
    index = json.loads(index_path.read_text())
    tensors = load_file(directory / index["tensors"])
    name = next(name for name in tensors if name.startswith("model."))
    if kind == "a tensor missing":
        del tensors[name]
    elif kind == "a tensor of another shape":
        tensors[name] = tensors[name][:1].clone()
    elif kind == "a tensor of another type":
        tensors[name] = tensors[name].double()
    elif kind == "a moment missing":
        del tensors[f"exp_avg.{name.removeprefix('model.')}"]
    elif kind == "losses of other steps":
        tensors["losses"] = tensors["losses"][:-1].clone()
    elif kind == "more steps than the run":
        index["steps_done"] = 10**9
    elif kind == "no digest":
        del index["progress"]["corpus_digest"]
    elif kind == "seconds that are none":
        index["progress"]["seconds"] = "long"
    elif kind == "a deep index":
        index["progress"] = {"a": 1}
    save_file(tensors, directory / index["tensors"])
    index["sha256"] = checkpoint._digest(directory / index["tensors"])
    text = json.dumps(index)
    if kind == "a deep index":
        text = text.replace('{"a": 1}', '{"a":' * 10**5 + "1" + "}" * 10**5)
    index_path.write_text(text)


@pytest.mark.parametrize(
    "kind",
    [
        "a tensor missing", "a tensor of another shape", "a tensor of another type",
        "a moment missing", "losses of other steps", "more steps than the run", "no digest",
        "seconds that are none", "a deep index", "a file", "a dangling link",
    ],
)  # fmt: skip
def test_whatever_stands_for_a_checkpoint_the_run_is_begun_again(tmp_path, kind):
    place, (one,) = toy_place(tmp_path), toy_plan(1)
    directory = place.runs / one.run_id
    if kind == "a file":
        place.runs.mkdir(parents=True)
        directory.write_text("a note")
    elif kind == "a dangling link":
        place.runs.mkdir(parents=True)
        directory.symlink_to(tmp_path / "nowhere")
    else:
        train(one.run, corpus=open_corpus("smoke"), checkpoint_directory=directory)
        crafted(directory, kind)
    assert steps_done(one, place) >= 0
    outcome = run_one(one, POOL, place)
    assert outcome.state == "ok", outcome.reason
    assert outcome.reason.startswith("begun again, since its checkpoint could not be read: ")
    assert losses(place) == [(one.run_id, undisturbed(one.run))]


@pytest.mark.parametrize("value", ["x", "", "-1", "0", "1e9", "9" * 400])
def test_an_environment_that_torchrun_never_sets_is_named(monkeypatch, value):
    monkeypatch.setenv("WORLD_SIZE", value)
    (one,) = toy_plan(1)
    with pytest.raises(ValueError, match=r"^WORLD_SIZE = '.*': is not what torchrun sets"):
        train(one.run, corpus=open_corpus("smoke"))


def test_another_mistake_that_speaks_of_checkpoints_costs_no_checkpoint(tmp_path, monkeypatch):
    place, (task,) = toy_place(tmp_path), toy_plan(1)
    kept = place.runs / task.run_id / "checkpoint.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("what hours of training left")

    def fails(*args, **options):
        raise ValueError("checkpoint_seconds = 0: must be positive")

    monkeypatch.setattr(loop, "train", fails)
    assert run_one(task, POOL, place).state == "failed"
    assert kept.is_file()


def test_traces_of_recorded_runs_are_swept_and_of_others_kept(tmp_path):
    place, plan = toy_place(tmp_path), toy_plan(2)
    run_one(plan[0], POOL, place)
    for task in plan:
        (place.runs / task.run_id).mkdir()
        (place.runs / f"{task.run_id}.lock").write_text("1 1\n")
    runner.sweep_leftovers(place)
    assert {path.name.removesuffix(".lock") for path in place.runs.iterdir()} == {plan[1].run_id}


def test_the_cheapest_come_first_and_equal_runs_once(tmp_path):
    plan = [*toy_plan(1, 30), *toy_plan(1, 10), *toy_plan(1, 20), *toy_plan(1, 10)]
    found = missing(plan, toy_place(tmp_path))
    assert [task.run.num_steps for task in found] == [10, 20, 30]


def test_a_run_of_two_studies_is_trained_once_and_stands_in_both(tmp_path, monkeypatch):
    place, (task,) = toy_place(tmp_path), toy_plan(1)
    other = dataclasses.replace(task, study="other")
    run_one(task, POOL, place)
    assert missing([task, other], place) == [other]
    monkeypatch.setattr(loop, "train", lambda *rest, **more: pytest.fail("trained again"))
    third = dataclasses.replace(task, study="third")
    assert run_one(third, POOL, place).state == "recorded"
    assert losses(place, "third") == losses(place)
    for path in place.ledger.glob("*.jsonl"):  # wrong for these, it may be fine for another study
        path.write_text(path.read_text().replace('"excluded":null', '"excluded":"too small"'))
    for _ in range(2):
        assert runner.run([task, other, third], pool=POOL, place=place) == []
    assert losses(place, "other") == losses(place)
    is_left_out = ledger.table(directory=place.ledger).set_index("study")["excluded"].notna()
    assert is_left_out.to_dict() == {task.study: True, "other": False, "third": True}
    assert ledger.verify(place.ledger) == []
    assert list(place.runs.iterdir()) == []


def test_pools_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"workers = 0: must be a whole number >= 1"):
        Pool(workers=0)
    with pytest.raises(ValueError, match=r"backend = 'slurm': must be one of local, dask, ray"):
        Pool(backend="slurm")


def test_a_dead_holder_blocks_nobody(tmp_path):
    path = tmp_path / "a.lock"
    script = (
        "import os, pathlib, sys\nfrom moe_leverage.locks import claim\n"
        "with claim(pathlib.Path(sys.argv[1])):\n    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -9
    assert path.exists()
    assert not is_claimed(path)
    with claim(path) as is_mine:
        assert is_mine
    assert not path.exists()


def test_a_claim_outwaits_a_probe_and_a_probe_leaves_the_holder_named(tmp_path):
    path = tmp_path / "a.lock"
    path.write_text("1 1\n")
    with path.open("r+b") as probe:
        assert lock_descriptor(probe.fileno(), blocking=False)
        threading.Timer(0.03, unlock_descriptor, [probe.fileno()]).start()
        with claim(path) as is_mine:
            assert is_mine
            assert is_claimed(path)
            assert holder(path) == (os.getpid(), os.getppid())


def test_a_claim_on_a_file_that_its_holder_unlinks_is_on_the_next_one(tmp_path):
    path = tmp_path / "a.lock"
    with claim(path), ThreadPoolExecutor() as pool:

        def second():
            with claim(path, wait=True) as is_mine:
                return is_mine, is_claimed(path), path.read_text().split()[0]

        waiting = pool.submit(second)
        time.sleep(0.05)
        path.unlink()
        assert waiting.result(timeout=10) == (True, True, str(os.getpid()))


def test_places_default_to_the_checkout():
    assert Place().ledger.name == "ledger"
    assert toy_run(3).identity() == toy_plan(4)[3].run_id
