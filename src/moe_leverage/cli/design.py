"""The verb that designs: the shapes of highest leverage at a budget, and what would check them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe_leverage.cli import app
from moe_leverage.cli.explain import (
    IN_PARENTHESES,
    Json,
    Ranks,
    Tokens,
    billions,
    print_notes,
    print_table,
    summary,
    told,
)

if TYPE_CHECKING:
    from moe_leverage.design.limits import Limits
    from moe_leverage.design.search import Design
    from moe_leverage.studies.protocol import Point

MaxParams = Annotated[
    float | None, typer.Option(help="Limit on all parameters, vocabulary included.")
]
MaxMemory = Annotated[
    float | None,
    typer.Option(
        help="Limit on one rank's weights, gradients and optimiser, at 16 bytes a parameter."
    ),
]
MinRatio = Annotated[
    float | None, typer.Option(help="Smallest A; without it, the smallest behind the law.")
]
Out = Annotated[
    Path | None, typer.Option(help="Write the best design as a config for transformers.")
]

Check = Annotated[
    Path | None,
    typer.Option("--study", help="Write the study that would check the designs, as small ones."),
]

Objective = Annotated[
    str,
    typer.Option(help="What is sought: leverage, memory, or the weight of leverage from 0 to 1."),
]


@app.command()
def design(
    compute: Annotated[float, typer.Option(help="Training compute in FLOPs.")],
    tokens: Tokens = None,
    max_total_params: MaxParams = None,
    max_memory_gb: MaxMemory = None,
    min_activation_ratio: MinRatio = None,
    expert_parallel: Ranks = 1,
    vocab: Annotated[int, typer.Option("--vocab", min=1, help="Vocabulary size.")] = 126_464,
    sequence_length: Annotated[
        int, typer.Option("--sequence-length", min=1, help="Tokens of a sequence.")
    ] = 4096,
    objective: Objective = "leverage",
    hf: Out = None,
    study: Check = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
    as_json: Json = False,
) -> None:
    """Search buildable shapes for the highest predicted leverage at a budget.

    Example: moe-leverage design --compute 1e22 --tokens 1e12 --max-total-params 20e9
    """
    from moe_leverage import paths
    from moe_leverage.design import search
    from moe_leverage.design.export import require_writable, write_hf
    from moe_leverage.design.limits import Limits
    from moe_leverage.studies import likeness

    for name, path, other in (("hf", hf, None), ("study", study, hf)):
        if path is not None:
            paths.require_output(name, path, other)
    limits = Limits(
        compute=compute,
        tokens=tokens,
        max_total_params=max_total_params,
        max_memory_gb=max_memory_gb,
        min_activation_ratio=min_activation_ratio,
        expert_parallel=expert_parallel,
        vocab_size=vocab,
        sequence_length=sequence_length,
        objective=_weight(objective),
    )
    for path in (hf, study):
        if path is not None:
            require_writable(path, force=force)
    designs, frontier = search.design(limits), search.frontier(limits)
    small = {f"design-{i + 1}": _likeness(design) for i, design in enumerate(designs)}
    if hf is not None:
        write_hf(designs[0].model, hf, sequence_length, force=force)
    if study is not None:
        paths.write_atomically(study, likeness.study(small))
    if as_json:
        found = {
            "limits": asdict(limits),
            "designs": [
                design.to_dict() | {"check": point and likeness.axes(point)}
                for design, point in zip(designs, small.values(), strict=True)
            ],
            "frontier": [_on_frontier(entry) for entry in frontier],
        }
        typer.echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        _print_designs(designs, hf)
        _print_frontier(frontier, limits)
        _print_checks(designs, small, study)


def _print_designs(designs: list[Design], hf: Path | None) -> None:
    rows = []
    for design in designs:
        model = design.model
        rows.append(
            {
                "layers": f"{model.num_layers}, {model.num_dense_layers} dense",
                "d_model": f"{model.d_model}",
                "heads": f"{model.num_heads} x {model.d_head}, {model.num_kv_heads} key-value",
                "experts": f"{model.num_active_experts} of {model.num_experts}, "
                f"{model.num_shared_experts} shared",
                "d_expert": f"{model.d_expert}",
                "learning rate": f"{design.learning_rate:.3g}",
                "batch": f"{design.batch_sequences} x {design.explanation.sequence_length}",
            }
            | summary(design.explanation)
            | {"a rank": f"{design.memory_per_rank_gb:.4g} GB"}
        )
    print_table([f"design {i + 1}" for i in range(len(designs))], rows)
    for i, design in enumerate(designs):
        for bound in design.binding:
            typer.echo(f"design {i + 1}: {bound.constraint} binds: {bound.reason}")
    typer.echo(IN_PARENTHESES)
    print_notes(told(designs[0].explanation), designs[0].explanation.assumptions)
    if hf is not None:
        typer.echo(f"design 1 written to {hf}")


def _weight(objective: str) -> float:
    """The weight of leverage that a word or a number names."""
    from moe_leverage.rules import refuse

    named = {"leverage": 1.0, "memory": 0.0}
    if objective in named:
        return named[objective]
    try:
        return float(objective)
    except ValueError:
        rule = "must be leverage, memory or a number from 0 to 1"
        refuse("objective", objective, rule)
        raise


def _on_frontier(one: Design) -> dict[str, float]:
    found = one.explanation
    return {
        "total_params": found.parameters["total"],
        "activation_ratio": found.activation_ratio,
        "granularity": found.granularity,
        "efficiency_leverage": found.published.value,
    }


def _print_frontier(designs: list[Design], limits: Limits) -> None:
    """EL against all parameters at this budget."""
    typer.echo(
        "What memory buys at this budget, by the published law (the budget fixes M; a limit on "
        "parameters then fixes A):"
    )
    columns: dict[str, Callable[[Design], str]] = {
        "A": lambda design: f"{design.explanation.activation_ratio:.4g}",
        "G": lambda design: f"{design.explanation.granularity:.3g}",
        "EL": lambda design: f"{design.explanation.published.value:.3g}",
        "a rank": lambda design: f"{design.memory_per_rank_gb:.4g} GB",
        "within the limits": lambda design: "yes" if design.within(limits) else "no",
    }
    sizes = [billions(design.explanation.parameters["total"]) for design in designs]
    cells = [dict(zip(sizes, map(value, designs), strict=True)) for value in columns.values()]
    print_table([*columns], cells, "all parameters")


def _likeness(design: Design) -> Point | None:
    from moe_leverage.studies.likeness import likeness

    return likeness(design.explanation.activation_ratio, design.explanation.granularity)


def _print_checks(
    designs: list[Design], small: dict[str, Point | None], study: Path | None
) -> None:
    """What it would take to check each design, and what such a check can say."""
    from moe_leverage.studies import likeness

    budgets = " and ".join(f"{budget:.0e}" for budget in likeness.BUDGETS_FLOPS)
    for design, (name, point) in zip(designs, small.items(), strict=True):
        start = f"{name.replace('-', ' ')}: to check it small"
        if point is None:
            typer.echo(f"{start}: no, its A takes more experts than a small model can have")
            continue
        said = ", ".join(f"{axis} {value:g}" for axis, value in likeness.axes(point).items())
        typer.echo(
            f"{start} (its G is {design.explanation.granularity:.3g}): {said} against dense at "
            f"{budgets} FLOPs, {len(likeness.SEEDS)} seeds, {likeness.total_flops(1):.2g} FLOPs"
        )
    smaller = designs[0].explanation.compute / max(likeness.BUDGETS_FLOPS)
    file = study or "FILE.toml"
    if study is None:
        typer.echo("design ... --study FILE.toml writes that study")
    typer.echo(
        f"moe-leverage study plan {file} says what it can tell, study run {file} trains it: with "
        f"{smaller:.0e} times less compute it may show which is better there, not EL at this budget"
    )
