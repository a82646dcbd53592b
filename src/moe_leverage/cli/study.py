"""`moe-leverage study`: list, plan, run and check the studies behind every measured figure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moe_leverage.cli import app
from moe_leverage.cli.progress import runs_left

if TYPE_CHECKING:
    from moe_leverage.studies.sweeps import Planned
    from moe_leverage.studies.yours import YourStudy

group = typer.Typer(
    help="The studies: what is planned, run them, where they stand.", no_args_is_help=True
)
app.add_typer(group, name="study")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@group.command("list")
def list_studies(as_json: Json = False) -> None:
    """The studies, what they answer and what they need.

    Example: moe-leverage study list
    """
    from moe_leverage.studies.catalogue import STUDIES

    found = [
        {"study": study.name, "answers": study.answers, "needs": list(study.needs)}
        for study in STUDIES.values()
    ]
    if as_json:
        typer.echo(json.dumps(found))
        return
    for row in found:
        needs = f" (needs: {', '.join(row['needs'])})" if row["needs"] else ""
        typer.echo(f"{row['study']:15}{row['answers']}{needs}")


@group.command()
def plan(study: str, as_json: Json = False) -> None:
    """Every run of a study: axes, sizes, FLOPs, predicted minutes on one worker, and its state.

    STUDY is a name, or a file that declares a study of your own (data/studies/example.toml).
    Example: moe-leverage study plan hparams --json
    """
    from moe_leverage import ledger
    from moe_leverage.studies import catalogue, status
    from moe_leverage.studies.place import Place

    yours = _yours([study])
    place = yours.place if yours else Place()
    study = yours.study.name if yours else catalogue.get(study).name
    planned = status.plan_now(study, place)
    seconds = status.predicted_seconds(planned, place)
    have = ledger.statuses(place.ledger / f"{study}.jsonl")
    rows = [
        _described(task) | {
            "predicted_minutes": round(seconds[task.run_id] / 60, 2),
            "state": have.get(task.run_id, "missing"),
        }
        for task in planned
    ]  # fmt: skip
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(
            f"{row['run_id']}  C {row['training_flops']:.2e}  A {row['activation_ratio']:.4f}  "
            f"G {row['granularity']:5.2f}  S {row['shared_ratio']:.3f}  E {row['num_experts']:>3}  "
            f"width {row['d_model']:>3} x {row['num_layers']}  eta {row['learning_rate']:.2e}  "
            f"B {row['batch_tokens']:>6,}  D {row['num_tokens']:>11,}  seed {row['seed']}  "
            f"{row['predicted_minutes']:6.1f} min  {row['state']}  {row['sweep']}"
        )
    total = sum(row["training_flops"] for row in rows)
    minutes = sum(row["predicted_minutes"] for row in rows if row["state"] == "missing")
    typer.echo(f"{len(rows)} runs, {total:.2e} FLOPs; {minutes:.0f} minutes left on one worker")
    if yours:
        typer.echo(_power(yours))


@group.command()
def run(
    studies: Annotated[
        list[str] | None,
        typer.Argument(help="Names, or one file of your own."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every study that can be planned.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Runs that go on at once.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads of each run.")] = 1,
    backend: Annotated[str, typer.Option(help="local, dask or ray.")] = "local",
    address: Annotated[str, typer.Option(help="Of an existing Dask or Ray cluster.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Compile the steps; unsaid, where it repays."),
    ] = None,
    max_minutes: Annotated[float, typer.Option(help="Start no run later.")] = float("inf"),
    as_json: Json = False,
) -> None:
    """Train what the ledger lacks, cheapest first; stop it at any time, run it again to go on.

    Example: moe-leverage study run activation granularity --workers 2
    Example: moe-leverage study run data/studies/example.toml
    """
    from moe_leverage import paths
    from moe_leverage.rules import require
    from moe_leverage.studies import catalogue
    from moe_leverage.studies.backends import Pool

    paths.require_posix("study run")
    rule = f"name some, or say --all to train what all {len(catalogue.STUDIES)} lack (study list)"
    require(bool(studies) or everything, "studies", None, rule)
    require(
        not (studies and everything),
        "studies",
        " ".join(studies or ()),
        "go without --all, which names every one",
    )
    yours = _yours(studies or [])
    for name in () if yours else studies or ():
        catalogue.get(name)
    pool = Pool(
        workers=workers,
        threads=threads,
        backend=backend,  # type: ignore[arg-type]  # checked by Pool
        address=address,
        device=device,  # type: ignore[arg-type]  # checked below
        compile=compiled,
        max_seconds=60 * max_minutes,
    )
    from moe_leverage.studies import rounds, runner, status  # only now: what is wrong is answered
    from moe_leverage.studies.place import Place
    from moe_leverage.training.machine import Execution

    Execution.from_dict({"device": device, "threads": threads, "compile": bool(compiled)})
    place = yours.place if yours else Place()
    names = (yours.study.name,) if yours else ()
    if yours:
        place.ledger.mkdir(parents=True, exist_ok=True)
        typer.echo(_power(yours), err=True)
    outcomes = rounds.run_rounds(names or studies or (), pool, place, progress=runs_left)
    status.pin(place, *names)
    failures = [outcome for outcome in outcomes if outcome.state == "failed"]
    if as_json:
        rows = [
            {name: getattr(outcome, name) for name in outcome.__slots__} for outcome in outcomes
        ]
        typer.echo(json.dumps({"tally": runner.tally(outcomes), "runs": rows}))
    else:
        counts = [f"{count} {state}" for state, count in runner.tally(outcomes).items()]
        typer.echo(", ".join(counts) or "nothing was missing")
        for outcome in failures:
            typer.echo(f"{outcome.study} {outcome.run_id} failed: {outcome.reason}", err=True)
        if yours:
            _report(yours)
    if failures:
        raise typer.Exit(1)
    if any(outcome.state == "stopped" for outcome in outcomes):
        raise typer.Exit(130)


@group.command()
def report(file: str, as_json: Json = False) -> None:
    """What the runs of your own study show: each design's loss against the other's, and its EL.

    Example: moe-leverage study report data/studies/example.toml --json
    """
    from moe_leverage.analysis.comparison import compare
    from moe_leverage.studies import yours

    found = yours.load(Path(file))
    if not as_json:
        _report(found)
        return
    table = yours.runs(found)
    rows = [] if table.empty else compare(table, found.against).to_dict("records")
    for row in rows:  # JSON knows neither NaN nor infinity
        row |= {k: None for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
    typer.echo(json.dumps({"against": found.against, "designs": rows}))


@group.command("status")
def show_status(as_json: Json = False) -> None:
    """Done, running, missing and diverged runs of every study.

    Example: moe-leverage study status --json
    """
    from moe_leverage.studies import status
    from moe_leverage.studies.place import Place

    found = status.status(Place())
    if as_json:
        typer.echo(json.dumps(found))
        return
    columns = ("planned", "done", "running", "missing", "diverged")
    typer.echo(f"{'study':15}" + "".join(f"{name:>10}" for name in columns))
    for name, row in found["studies"].items():
        counts = "".join(f"{row[column]:>10}" for column in columns)
        typer.echo(f"{name:15}" + ("  waits: " + row["waits"] if row["waits"] else counts))
    typer.echo(f"{found['finished']} finished runs, {found['diverged']} diverged")


@group.command()
def verify(as_json: Json = False) -> None:
    """Check the ledger: schema, identities, duplicates, stale configs, finite losses.

    Example: moe-leverage study verify
    """
    from moe_leverage.studies import adoption, status
    from moe_leverage.studies.place import Place

    place = Place()
    problems, remarks = status.verify(place), adoption.moved(place)
    if as_json:
        typer.echo(json.dumps({"problems": problems, "remarks": remarks}))
    else:
        typer.echo("\n".join(["\n".join(problems) or "the ledger holds", *remarks]))
    if problems:
        raise typer.Exit(1)


@group.command()
def gates(as_json: Json = False) -> None:
    """What must hold before a measured claim is decided: each gate, its figure and its limit.

    Example: moe-leverage study gates --json
    """
    from dataclasses import asdict

    from moe_leverage import ledger
    from moe_leverage.analysis.gates import gates
    from moe_leverage.studies.place import Place

    found = gates(ledger.table(directory=Place().ledger))
    if as_json:
        rows = [asdict(gate) for gate in found]
        for row in rows:  # JSON knows no infinity
            row["figure"] = row["figure"] if math.isfinite(row["figure"]) else None
        typer.echo(json.dumps(rows))
        return
    for gate in found:
        state = "holds" if gate.holds else "FAILS"
        numbers = f"{gate.figure:>8.3g} (limit {gate.limit:g})"
        typer.echo(f"{state}  {gate.name:20}{gate.study:16}{numbers:22}  {gate.detail}")


@group.command()
def pin() -> None:
    """Write the runs that each study plans beside the ledger: the audit asks if all are there.

    `run` and `adopt` do so themselves; needed where records were copied from elsewhere.

    Example: moe-leverage study pin
    """
    from moe_leverage import ledger
    from moe_leverage.studies import status
    from moe_leverage.studies.place import Place

    place = Place()
    status.pin(place)
    for name in status.plans_now(place):
        typer.echo(ledger.standing(name, place.ledger).words)


@group.command()
def adopt(law: str, as_json: Json = False) -> None:
    """Fit a law to its finished studies and make it binding for the plans of later ones.

    Example: moe-leverage study adopt hyperparameters
    """
    from moe_leverage.studies import adoption, status
    from moe_leverage.studies.place import Place

    place = Place()
    path = adoption.adopt(law, place)
    status.pin(place)
    typer.echo(path.read_text("utf-8").strip() if as_json else f"{law} adopted in {path.name}")


def _yours(studies: Sequence[str]) -> YourStudy | None:
    """The study of a file of the reader's, if one is named; it goes alone."""
    from moe_leverage.rules import require

    if not any(study.endswith(".toml") for study in studies):
        return None
    require(len(studies) == 1, "studies", " ".join(studies), "a file of your own goes alone")
    from moe_leverage.studies import yours

    return yours.load(Path(studies[0]))


def _power(yours: YourStudy) -> str:
    """How many seeds find which difference, by the noise of our own runs near the budget."""
    from moe_leverage import ledger
    from moe_leverage.analysis.comparison import seeds_needed
    from moe_leverage.analysis.reductions import noise_near

    table = ledger.finished(ledger.table())
    lines = []
    for budget in yours.budgets_flops:
        noise, seen = noise_near(table, budget)
        needed = ", ".join(
            f"{seeds_needed(noise, d)} to find {100 * d:g} %" for d in (0.01, 0.02, 0.05)
        )
        lines.append(
            f"at {budget:.3g} FLOPs: the loss scatters by {100 * noise:.1f} % between seeds (our "
            f"runs at {seen:.0e}); seeds a design, nine times in ten: {needed}; "
            f"planned: {len(yours.seeds)}"
        )
    return "\n".join(lines)


def _report(found: YourStudy) -> None:
    """The comparison in words, a line a design and budget, and the gates that fail."""
    from moe_leverage.analysis.comparison import compare, in_words
    from moe_leverage.analysis.gates import gates
    from moe_leverage.studies import yours

    table = yours.runs(found)
    if table.empty:
        typer.echo("no run has finished yet")
        return
    for _, row in compare(table, found.against).iterrows():
        typer.echo(in_words(row.to_dict(), found.against))
    for gate in gates(table):
        if not gate.holds:
            typer.echo(
                f"gate {gate.name} fails: {gate.figure:.3g} (limit {gate.limit:g}), {gate.detail}"
            )


def _described(task: Planned) -> dict[str, Any]:
    from moe_leverage.accounting import count_training_flops

    model = task.run.model
    axes = ("activation_ratio", "granularity", "shared_ratio", "num_experts", "num_active_experts")
    sizes = ("num_shared_experts", "d_model", "d_expert", "num_layers", "num_dense_layers")
    return {
        "study": task.study,
        "sweep": task.sweep,
        "run_id": task.run_id,
        "budget_flops": task.point.budget_flops,
        "training_flops": count_training_flops(task.run),
        **{name: getattr(model, name) for name in axes + sizes},
        "learning_rate": task.run.learning_rate,
        "batch_tokens": task.run.batch_tokens,
        "num_steps": task.run.num_steps,
        "num_tokens": task.run.num_tokens,
        "seed": task.run.seed,
    }
