"""`moe-leverage train`: one run from a JSON config, its record out."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from moe_leverage.cli import app

HOW = ("threads", "compile")  # of the fields of Execution those on which a loss depends
FEWER = {"DEFAULT": "default", "AVX2": "avx2"}  # instructions that a machine with more can do with


@app.command()
def train(
    config: Annotated[
        Path | None, typer.Option(help="JSON file with the fields of RunConfig.")
    ] = None,
    run_id: Annotated[
        str, typer.Option("--run", help="Train a run of the ledger again, by its identity.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Ledger file to append the record to.")] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Directory of this run's checkpoint; resumes from it.")
    ] = None,
    execution: Annotated[
        Path | None,
        typer.Option(help="JSON file with fields of Execution: device, threads, compile ..."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Begin a run that this machine seems not to hold.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Train one run. Ctrl-C or SIGTERM keeps a checkpoint; the same command then goes on.

    Example: moe-leverage train --config run.json --out record.jsonl --checkpoints run/

    Again what the ledger holds, as it was trained: moe-leverage train --run 111d68ac48ba. Runs that
    it begins from are trained before it.

    Several processes: torchrun --nproc-per-node 2 -m moe_leverage train --config run.json
    """
    from moe_leverage import ledger, paths
    from moe_leverage.config import RunConfig
    from moe_leverage.rules import read_object

    paths.require_posix("train")
    recorded: dict[str, Any] = {}
    if config is not None and not run_id:
        run = RunConfig.from_dict(read_object(config, "config"))
    elif run_id and config is None:
        recorded = ledger.find(run_id)
        run = RunConfig.from_dict(recorded["config"])
    else:
        raise ValueError("train: give either --config FILE or --run RUN_ID")
    # again as it was trained, unless another way is asked for: the last digits hang on both
    settings = {name: recorded["environment"][name] for name in HOW if recorded}
    if recorded:
        _choose_instructions(recorded["environment"]["instructions"])
    settings |= {} if execution is None else read_object(execution, "execution")
    if out is not None:
        paths.require_output("out", out, config, execution)
        ledger.require_ledger(out)
        if run.identity() in ledger.statuses(out):
            _print(ledger.find_in(out, run.identity()), {}, as_json)
            print(f"moe-leverage: {out} holds this run already", file=sys.stderr)
            return

    from moe_leverage import corpus  # only now: a mistake is answered at once
    from moe_leverage.training import size
    from moe_leverage.training.chain import train_chain
    from moe_leverage.training.loop import Stopped
    from moe_leverage.training.machine import Execution, room, share_of_torchrun

    how = Execution.from_dict(settings)
    processes, rank = share_of_torchrun()
    if not force:
        device, memory = room(how)
        size.require_room(
            run, memory, device=device, processes=processes, micro=how.micro_batch_sequences
        )  # fmt: skip
    tokens = corpus.load(run.corpus)
    try:
        record = train_chain(run, corpus=tokens, execution=how, checkpoint_directory=checkpoints)
    except Stopped as stopped:
        print(f"moe-leverage: {stopped}; the same command goes on from there", file=sys.stderr)
        raise typer.Exit(128 + stopped.signal_number) from None
    if rank > 0:  # the first of torchrun's processes speaks for all
        return
    if out is not None:
        ledger.append(out, record | {"study": out.stem})
    _print(record, recorded, as_json)


def _choose_instructions(recorded: str) -> None:
    """Have torch do with the vector instructions of a record, where this machine has more.

    Steps compiled for them have a folder of their own: torch finds those of another set as well,
    and running both ended in a crash.
    """
    from moe_leverage import paths

    fewer = FEWER.get(recorded, "")
    if fewer and "torch" not in sys.modules:  # which reads this once, when it is imported
        os.environ.setdefault("ATEN_CPU_CAPABILITY", fewer)
        folder = Path(tempfile.gettempdir()) / f"torchinductor_{paths.user_name()}_{fewer}"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def _print(record: dict[str, Any], recorded: dict[str, Any], as_json: bool) -> None:
    """The record, and in words also what the ledger holds of the run."""
    typer.echo(json.dumps(record) if as_json else _summary(record))
    if recorded and not as_json:
        typer.echo(_beside(recorded, record["environment"]["instructions"]))


def _summary(record: dict[str, Any]) -> str:
    speed = (
        f"{record['num_tokens']:,} tokens in {record['seconds']:.1f} s, "
        f"{record['tokens_per_second']:,.0f} tokens/s, "
        f"{record['peak_share']:.0%} of the measured matrix-multiply peak"
    )
    if record["status"] == "diverged":
        return f"{record['run_id']} diverged after step {record['steps_done']}; {speed}"
    return (
        f"{record['run_id']} validation loss {record['validation_loss_nats']:.4f} nats a token "
        f"(standard error {record['validation_standard_error_nats']:.4f}), "
        f"{record['validation_bits_per_byte']:.3f} bits a byte; {speed}"
    )


def _beside(recorded: dict[str, Any], instructions: str) -> str:
    """What the ledger holds of the run that was trained again, and where that came about."""
    loss = recorded["validation_loss_nats"]
    found = "diverged" if loss is None else f"validation loss {loss:.4f}"
    where = recorded["environment"]
    apart = f"; {instructions} here rounds otherwise, which parts two runs as two seeds do"
    return (
        f"in the ledger: {found}, with torch {where['torch']} on {where['threads']} thread(s) "
        f"of {where['device_name']}{', compiled' if where['compile'] else ''}, "
        f"by {where['instructions']}{'' if where['instructions'] == instructions else apart}"
    )
