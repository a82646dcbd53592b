"""`moe-leverage train`: record out, ledger line, resume after a signal, one line for a mistake."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest
from toy import CORPUS, DENSE, HERE, run_of

from moe_leverage import cli, corpus, ledger
from moe_leverage.config import RunConfig
from moe_leverage.training import chain, machine, size


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "load", lambda tier: CORPUS)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run_of(DENSE).to_dict()))
    return path


def call(monkeypatch, *arguments):
    """The exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["moe-leverage", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def test_record_as_json_and_in_the_ledger(run_file, tmp_path, monkeypatch, capsys):
    out = tmp_path / "mine.jsonl"
    assert call(monkeypatch, "train", "--config", run_file, "--out", out, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert RunConfig.from_dict(printed["config"]) == run_of(DENSE)
    (stored,) = ledger.records(out)
    assert stored == printed | {"study": "mine"}
    assert ledger.verify(tmp_path) == []


def test_summary_says_loss_and_speed(run_file, tmp_path, monkeypatch, capsys):
    how = tmp_path / "how.json"
    how.write_text(json.dumps({"device": "cpu", "threads": 1}))
    assert call(monkeypatch, "train", "--config", run_file, "--execution", how) == 0
    captured = capsys.readouterr()
    assert "nats a token (standard error" in captured.out
    assert "tokens/s" in captured.out
    assert captured.err == ""  # no progress bar where the error stream is no terminal


def test_a_run_of_the_ledger_is_trained_again(run_file, tmp_path, monkeypatch, capsys):
    out = tmp_path / "mine.jsonl"
    assert call(monkeypatch, "train", "--config", run_file, "--out", out) == 0
    (stored,) = ledger.records(out)
    monkeypatch.setattr(ledger.find, "__defaults__", (tmp_path,))
    capsys.readouterr()
    asked = []
    plain = chain.train
    monkeypatch.setattr(
        chain, "train", lambda *run, execution, **rest: asked.append(execution) or plain(
            *run, execution=dataclasses.replace(execution, compile=False), **rest
        )
    )  # fmt: skip
    assert call(monkeypatch, "train", "--run", stored["run_id"]) == 0
    loss = f"validation loss {stored['validation_loss_nats']:.4f}"
    again, recorded = capsys.readouterr().out.splitlines()
    assert loss in again
    assert recorded.startswith(f"in the ledger: {loss}, with torch ")
    assert "compiled" not in recorded
    compiled = stored | {"environment": stored["environment"] | {"compile": True, "threads": 1}}
    out.write_text(json.dumps(compiled, separators=(",", ":")) + "\n")
    assert call(monkeypatch, "train", "--run", stored["run_id"]) == 0
    assert ", compiled, by " in capsys.readouterr().out
    how = tmp_path / "how.json"
    how.write_text('{"threads": 2}')
    assert call(monkeypatch, "train", "--run", stored["run_id"], "--execution", how) == 0
    threads = stored["environment"]["threads"]
    assert [(e.threads, e.compile) for e in asked] == [(threads, False), (1, True), (2, True)]


AGAIN = """
import sys
from pathlib import Path
from moe_leverage import cli, corpus, ledger
def load(tier):
    import toy  # and torch with it, which has to find the instructions chosen
    return toy.CORPUS
corpus.load = load
ledger.find.__defaults__ = (Path(sys.argv.pop(1)),)
sys.exit(cli.main())
"""


def test_a_run_is_trained_again_with_the_instructions_that_its_record_names(
    run_file, tmp_path, monkeypatch
):
    """The last digits of a product hang on them, and after a thousand steps the loss does."""
    out = tmp_path / "mine.jsonl"
    assert call(monkeypatch, "train", "--config", run_file, "--out", out) == 0
    (stored,) = ledger.records(out)
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    here = stored["environment"]["instructions"]
    for told, found in (("DEFAULT", "DEFAULT"), ("other", here)):
        there = stored["environment"] | {"instructions": told}
        line = json.dumps(stored | {"environment": there}, separators=(",", ":"))
        out.write_text(line + "\n")
        arguments = [sys.executable, "-c", AGAIN, tmp_path, "train", "--run", stored["run_id"]]
        path = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", "tests"])}
        done = subprocess.run(
            arguments, capture_output=True, text=True, check=True, env=path, cwd=HERE.parent
        )
        apart = f"by {told}; {found} here rounds otherwise" if told != found else f"by {told}\n"
        assert apart in done.stdout


def test_the_same_command_again_records_nothing_twice(run_file, tmp_path, monkeypatch, capsys):
    out, checkpoints = tmp_path / "mine.jsonl", tmp_path / "run"
    arguments = ["train", "--config", run_file, "--out", out, "--checkpoints", checkpoints]
    assert call(monkeypatch, *arguments) == 0
    first, kept = capsys.readouterr().out, out.read_bytes()
    assert call(monkeypatch, *arguments) == 0
    again = capsys.readouterr()
    assert again.out == first
    assert again.err == f"moe-leverage: {out} holds this run already\n"
    assert out.read_bytes() == kept


@pytest.mark.parametrize("content", [b"a note\n", b"a note", b"\x00\xff" * 99, None])
def test_an_output_that_is_no_ledger_is_refused_before_the_work(
    run_file, tmp_path, monkeypatch, capsys, content
):
    monkeypatch.setattr(corpus, "load", lambda tier: pytest.fail("the work had begun"))
    out = run_file if content is None else tmp_path / "note.txt"
    before = run_file.read_bytes() if content is None else content
    out.write_bytes(before)
    assert call(monkeypatch, "train", "--config", run_file, "--out", out) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "moe-leverage: out = " if content is None else "moe-leverage: ledger = "
    )
    assert error.count("\n") == 1
    assert out.read_bytes() == before


MIXTURE = {"num_active_experts": 1, "d_expert": 32, "num_dense_layers": 0, "d_ffn": 0}


@pytest.mark.parametrize(
    ("model", "run", "answer"),
    [
        ({"num_experts": 10**7} | MIXTURE, {}, "memory = '"),
        ({"num_layers": 10**7, "num_dense_layers": 10**7}, {}, "num_layers = 10000000: must be"),
        ({"num_layers": 10**6, "num_dense_layers": 10**6}, {}, "memory = '"),
        ({"num_mtp_layers": 10**9}, {}, "num_mtp_layers = 1000000000: must be at most"),
        ({"vocab_size": 10**10}, {}, "memory = '"),
        ({"d_ffn": 10**10}, {}, "memory = '"),
        ({}, {"batch_sequences": 10**9}, "memory = '"),
        ({}, {"num_steps": 10**12}, "time = '"),
        ({}, {"num_steps": 10**18}, "num_steps = 1000000000000000000: must be at most"),
    ],
)
def test_a_run_that_no_machine_holds_is_refused_with_the_figure(
    run_file, monkeypatch, capsys, model, run, answer
):
    monkeypatch.setattr(machine, "memory_bytes", lambda: 64e9)
    values = run_of(DENSE).to_dict() | run
    values["model"] |= model
    run_file.write_text(json.dumps(values))
    assert call(monkeypatch, "train", "--config", run_file) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"moe-leverage: {answer}")
    assert error.count("\n") == 1
    assert len(error) <= 300


def test_force_begins_what_seems_too_large(run_file, monkeypatch, capsys):
    monkeypatch.setattr(machine, "memory_bytes", lambda: 1e3)
    assert call(monkeypatch, "train", "--config", run_file) == 2
    assert "--force begins it all the same" in capsys.readouterr().err
    assert call(monkeypatch, "train", "--config", run_file, "--force") == 0


def test_a_need_is_never_more_than_what_a_run_took(run_file):
    """The ledger's largest runs went on a laptop, so none of them may be refused."""
    for path in ledger.DIRECTORY.glob("*.jsonl"):
        for record in ledger.records(path):
            found = size.need(RunConfig.from_dict(record["config"]))
            assert found.seconds < record["seconds"]
            assert found.bytes < 8e9


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"threads": 10**5}, "threads = 100000: must be at most 1024"),
        ({"threads": -1}, "threads = -1"),
        ({"checkpoint_seconds": 1e300}, "checkpoint_seconds = 1e+300"),
        ({"micro_batch_sequences": -1}, "micro_batch_sequences = -1"),
    ],
)
def test_an_execution_that_no_machine_has_is_refused(
    run_file, tmp_path, monkeypatch, capsys, settings, answer
):
    how = tmp_path / "how.json"
    how.write_text(json.dumps(settings))
    assert call(monkeypatch, "train", "--config", run_file, "--execution", how) == 2
    assert answer in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "answer"),
    [
        ({"RANK": "1"}, "RANK = 1: must be below WORLD_SIZE, 1"),
        ({"RANK": "x"}, "RANK = 'x': is not what torchrun sets"),
        ({"MASTER_PORT": "1x"}, "MASTER_PORT = '1x': is not what torchrun sets"),
        ({"WORLD_SIZE": "2"}, "RANK = '': is not set and WORLD_SIZE is 2; use torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "h"}, "MASTER_PORT = '': is not set"),
    ],
)
def test_an_environment_of_another_launcher_is_refused_before_the_work(
    run_file, tmp_path, monkeypatch, capsys, variables, answer
):
    monkeypatch.setattr(chain, "train", lambda *rest, **more: pytest.fail("trained"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "mine.jsonl"
    assert call(monkeypatch, "train", "--config", run_file, "--out", out) == 2
    assert answer in capsys.readouterr().err


@pytest.mark.parametrize("place", ["none/mine.jsonl", ".", "/dev/null", "/dev/stdout"])
def test_an_output_is_a_new_name_or_a_regular_file(run_file, monkeypatch, capsys, place):
    assert call(monkeypatch, "train", "--config", run_file, "--out", place) == 2
    assert capsys.readouterr().err.startswith(f"moe-leverage: out = '{place}': ")


def test_a_run_to_train_is_named_in_one_way(run_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ledger.find, "__defaults__", (tmp_path,))
    for arguments, message in (
        ([], "train: give either --config FILE or --run RUN_ID"),
        (["--config", run_file, "--run", "c0ffee"], "train: give either"),
        (["--run", "c0ffee"], "run = 'c0ffee': is not in"),
    ):
        assert call(monkeypatch, "train", *arguments) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"gradient_clip": Infinity}', "not JSON"),
        ('{"gradient_clip": 1e400}', "not JSON"),
        ('{"model": ' * 900 + "1" + "}" * 900, "more than 64 objects and lists"),
        (json.dumps(run_of(DENSE).to_dict() | {"num_steps": 10**30}), "num_steps = 1e+30"),
        (json.dumps(run_of(DENSE).to_dict() | {"num_steps": 10**400}), "not JSON"),
        (json.dumps(run_of(DENSE).to_dict() | {"num_steps": "x" * 10**6}), "num_steps = 'xxx"),
        ("\x00", "not JSON"),
        ("[]", "must be a JSON object"),
        ('{"colour": 1}', "RunConfig.colour = 1: is not a field"),
        (json.dumps(run_of(DENSE).to_dict() | {"num_steps": 0}), "num_steps = 0"),
        (
            json.dumps(dataclasses.replace(run_of(DENSE), sequence_length=9999).to_dict()),
            "sequence_length = 9999: must be below the 4096 training tokens",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(run_file, monkeypatch, capsys, text, message):
    run_file.write_text(text)
    assert call(monkeypatch, "train", "--config", run_file) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert len(error) <= 300


def test_a_missing_file_is_one_line_and_exit_2(tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, "train", "--config", tmp_path / "none.json") == 2
    assert capsys.readouterr().err.count("\n") == 1


CHILD = """
import os, signal, sys
from moe_leverage import cli
from moe_leverage import corpus
from moe_leverage.training import loop as training
from toy import CORPUS
corpus.load = lambda tier: CORPUS
read, must_stop = training.batch, "stop" in sys.argv
def batch(tokens, *, step, **rest):
    if step == 3 and must_stop:
        os.kill(os.getpid(), signal.SIGTERM)
    return read(tokens, step=step, **rest)
training.batch = batch
sys.argv = [a for a in sys.argv if a != "stop"]
cli.main()
"""


@pytest.mark.slow
def test_sigterm_to_the_command_stops_cleanly_and_the_same_command_goes_on(run_file, tmp_path):
    arguments = ["train", "--config", run_file, "--checkpoints", tmp_path / "run", "--json"]

    def child(*extra):
        command = [sys.executable, "-c", CHILD, *map(str, arguments), *extra]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)

    stopped = child("stop")
    assert stopped.returncode == 128 + signal.SIGTERM
    assert stopped.stderr.startswith("moe-leverage: SIGTERM: stopped after step 4 of 12;")
    assert stopped.stderr.count("\n") == 1
    assert stopped.stdout == ""
    finished = child()
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["steps_done"] == 12
