"""A checkpoint survives a kill between any two calls; damaged and foreign ones are refused."""

import json
import os
from pathlib import Path

import pytest
import torch

from moe_leverage.training import checkpoint
from moe_leverage.training.checkpoint import FORMAT, INDEX, Checkpoint, CheckpointError, load, save

RUN_ID = "0123456789ab"


def state(steps_done, value=1.0, run_id=RUN_ID):
    tensors = {"model.w": torch.full((3, 4), value), "losses": torch.arange(4, dtype=torch.float64)}
    return Checkpoint(
        run_id=run_id, steps_done=steps_done, tensors=tensors, progress={"seconds": 1.5}
    )


def test_round_trip_is_bit_exact(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "f32": torch.randn(5, 3),
        "f64": torch.randn(2, dtype=torch.float64),
        "bf16": torch.randn(4).bfloat16(),
        "transposed": torch.randn(3, 2).T,
        "empty": torch.zeros(0),
    }
    save(tmp_path, Checkpoint(run_id=RUN_ID, steps_done=7, tensors=tensors, progress={"a": [1]}))
    back = load(tmp_path, run_id=RUN_ID)
    assert back.steps_done == 7
    assert back.progress == {"a": [1]}
    assert back.tensors.keys() == tensors.keys()
    assert all(torch.equal(back.tensors[name], tensors[name]) for name in tensors)


def test_no_checkpoint_is_none(tmp_path):
    assert load(tmp_path, run_id=RUN_ID) is None
    assert load(tmp_path / "missing", run_id=RUN_ID) is None


def test_only_the_last_one_is_kept(tmp_path):
    for steps_done in (1, 2, 3):
        save(tmp_path, state(steps_done, value=float(steps_done)))
    assert len(list(tmp_path.iterdir())) == 2
    assert load(tmp_path, run_id=RUN_ID).steps_done == 3


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the code under test may catch it."""


def kill_at(monkeypatch, nth):
    """Make the nth of the calls that touch the disk die, before (even) or after (odd) it."""
    calls = 0

    def dying(original):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 2
            if calls - 2 == nth:
                raise Killed
            result = original(*args, **kwargs)
            if calls - 1 == nth:
                raise Killed
            return result

        return call

    monkeypatch.setattr(checkpoint, "save_file", dying(checkpoint.save_file))
    monkeypatch.setattr(checkpoint, "_sync", dying(checkpoint._sync))
    for name in ("replace", "unlink", "write_text"):
        monkeypatch.setattr(Path, name, dying(getattr(Path, name)))


def test_a_kill_at_any_instant_leaves_a_readable_checkpoint(tmp_path):
    outcomes = []
    for nth in range(100):
        folder = tmp_path / str(nth)
        save(folder, state(10, value=1.0))
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, nth)
            try:
                save(folder, state(20, value=2.0))
                survived = True
            except Killed:
                survived = False
        back = load(folder, run_id=RUN_ID)
        assert (back.steps_done, back.tensors["model.w"][0, 0].item()) in {(10, 1.0), (20, 2.0)}
        outcomes.append(back.steps_done)
        save(folder, state(30, value=3.0))
        assert load(folder, run_id=RUN_ID).steps_done == 30
        assert len(list(folder.iterdir())) == 2
        if survived:
            break
    assert survived
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {10, 20}
    assert len(outcomes) > 12


def test_a_partial_write_of_the_tensors_is_never_read(tmp_path):
    save(tmp_path, state(10))
    (tmp_path / "tensors.partial").write_bytes(b"half a file")
    assert load(tmp_path, run_id=RUN_ID).steps_done == 10


def test_a_flipped_bit_is_refused(tmp_path):
    save(tmp_path, state(10))
    (path,) = tmp_path.glob("*.safetensors")
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="damaged: SHA-256 differs"):
        load(tmp_path, run_id=RUN_ID)


def test_a_truncated_file_is_refused(tmp_path):
    save(tmp_path, state(10))
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path, run_id=RUN_ID)


def test_a_missing_tensor_file_is_refused(tmp_path):
    save(tmp_path, state(10))
    (path,) = tmp_path.glob("*.safetensors")
    path.unlink()
    with pytest.raises(CheckpointError, match="is gone"):
        load(tmp_path, run_id=RUN_ID)


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    save(tmp_path, state(10, run_id="ba9876543210"))
    with pytest.raises(
        CheckpointError, match="belongs to run ba9876543210, not to this run, 0123456"
    ):
        load(tmp_path, run_id=RUN_ID)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"format":' * 900 + "2" + "}" * 900, f"this version reads {FORMAT}"),
        ("[]", "must be a JSON object"),
        ("{}", "not the index of a checkpoint"),
        (json.dumps({"format": FORMAT + 1}), f"this version reads {FORMAT}"),
        (json.dumps({"format": FORMAT}), "run_id must be of type str"),
    ],
)
def test_a_foreign_index_is_refused_with_the_reason(tmp_path, content, reason):
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(CheckpointError, match=reason):
        load(tmp_path, run_id=RUN_ID)


def test_an_index_cannot_point_outside_its_directory(tmp_path):
    save(tmp_path / "inside", state(10))
    save(tmp_path, state(20))
    index = json.loads((tmp_path / "inside" / INDEX).read_text())
    (outside,) = tmp_path.glob("*.safetensors")
    index["tensors"] = f"../{outside.name}"
    (tmp_path / "inside" / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="is gone"):
        load(tmp_path / "inside", run_id=RUN_ID)


def test_tensors_that_are_not_safetensors_are_refused(tmp_path):
    save(tmp_path, state(10))
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(b"a pickle, say")
    index = json.loads((tmp_path / INDEX).read_text())
    index["sha256"] = checkpoint._digest(path)
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="not safetensors"):
        load(tmp_path, run_id=RUN_ID)


@pytest.mark.parametrize("kind", ["file", "dangling link", "pipe", "index folder", "index link"])
def test_a_place_that_holds_something_else_is_refused(tmp_path, kind):
    place = tmp_path / "run"
    if kind == "file":
        place.write_text("a note")
    elif kind == "dangling link":
        place.symlink_to(tmp_path / "nowhere")
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "index folder":
        (place / INDEX).mkdir(parents=True)
    else:
        place.mkdir()
        (place / INDEX).symlink_to(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"is not a (folder|file)"):
        load(place, run_id=RUN_ID)
