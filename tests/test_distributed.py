"""Two gloo processes on loopback do what one does: same batch, same losses, same checkpoints."""

import json
import os
import subprocess
import sys

import pytest
from toy import CORPUS, CPU, HERE, MODELS, WIDE, losses_of, run_of

from moe_leverage import paths
from moe_leverage.training.loop import train

# The child runs under torchrun, once for all cases: starting it is what takes time.
CHILD = """
import dataclasses, json, os, sys
from pathlib import Path
from moe_leverage.training import loop as training
from moe_leverage.training.machine import machine_of
from toy import CORPUS, CPU, MODELS, WIDE, losses_of, run_of

folder, found = Path(sys.argv[1]), {}
with machine_of(CPU):  # one process group for all cases
    for parallel in ("ddp", "fsdp"):
        for name, model in MODELS.items():
            run = run_of(model, num_steps=5)
            found[f"{parallel} {name}"] = losses_of(run, parallel=parallel)
        # Without a first moment to remember, negligible moments are flushed at every step.
        run = run_of(MODELS["ling"], num_steps=5, adam_beta1=0.0)
        key = f"{parallel} micro-batches"
        found[key] = losses_of(run, parallel=parallel, micro_batch_sequences=2)
        run = run_of(WIDE, num_steps=3, sequence_length=32)
        found[f"{parallel} compiled"] = losses_of(run, parallel=parallel, compile=True)
        run = run_of(MODELS["ling"], merge_checkpoints=2)
        how = dataclasses.replace(CPU, parallel=parallel, checkpoint_seconds=1e-9)
        read = training.batch
        def batch(tokens, *, step, **rest):
            if step == 7:
                raise InterruptedError
            return read(tokens, step=step, **rest)
        training.batch = batch
        options = {"corpus": CORPUS, "execution": how, "checkpoint_directory": folder / parallel}
        try:
            training.train(run, **options)
        except InterruptedError:
            training.batch = read
        record = training.train(run, **options)
        found[f"{parallel} resumed"] = record["training_loss_curve_nats"]
        found[f"{parallel} validation"] = record["validation_loss_nats"]
        found[f"{parallel} processes"] = record["environment"]["processes"]
if os.environ["RANK"] == "0":
    (folder / "found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the two processes measured, and the checkpoints that they left."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "child.py").write_text(CHILD)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    package = os.pathsep.join(map(str, (HERE, paths.PACKAGE.parent)))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": package}
    done = subprocess.run(
        [*command, str(folder / "child.py"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[:3000]
    return json.loads((folder / "found.json").read_text()) | {"folder": folder}


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", MODELS)
def test_same_batch_same_losses(found, parallel, name):
    alone = losses_of(run_of(MODELS[name], num_steps=5))
    assert found[f"{parallel} {name}"] == pytest.approx(alone, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_compiled_processes_train_as_one_that_is_not(found, parallel):
    alone = losses_of(run_of(WIDE, num_steps=3, sequence_length=32))
    assert found[f"{parallel} compiled"] == pytest.approx(alone, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_gradients_are_exchanged_once_for_all_micro_batches(found, parallel):
    run = run_of(MODELS["ling"], num_steps=5, adam_beta1=0.0)
    alone = losses_of(run, micro_batch_sequences=2)
    assert found[f"{parallel} micro-batches"] == pytest.approx(alone, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_resume_and_one_reads_their_checkpoint(found, parallel):
    run = run_of(MODELS["ling"], merge_checkpoints=2)
    alone = train(run, corpus=CORPUS, execution=CPU)
    curve = alone["training_loss_curve_nats"]
    assert found[f"{parallel} processes"] == 2
    assert found[f"{parallel} resumed"] == pytest.approx(curve, abs=1e-5)
    loss = found[f"{parallel} validation"]
    assert loss == pytest.approx(alone["validation_loss_nats"], abs=1e-5)
    directory = found["folder"] / parallel
    again = train(run, corpus=CORPUS, execution=CPU, checkpoint_directory=directory)
    assert again["validation_loss_nats"] == pytest.approx(loss, abs=1e-6)
