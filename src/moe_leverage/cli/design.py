"""Verbs that count and predict: explain a model, predict a point, design for a budget, compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe_leverage.cli import app

if TYPE_CHECKING:
    from moe_leverage.design.designer import Explanation
    from moe_leverage.design.prediction import MeasuredLeverage, PublishedLeverage
    from moe_leverage.design.search import Design

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Compute = Annotated[float | None, typer.Option(help="Training compute in FLOPs.")]
Tokens = Annotated[float | None, typer.Option(help="Training tokens.")]

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
Ranks = Annotated[int, typer.Option(help="Ranks over which the experts of a layer are spread.")]
Out = Annotated[
    Path | None, typer.Option(help="Write the best design as a config for transformers.")
]

IN_PARENTHESES = (
    "In parentheses: how far rounding lets the published value move; the measured 90 % interval."
)
COMPONENTS = (
    "attention_projections", "attention_scores", "router", "routed_experts", "shared_experts",
    "dense_ffn", "logits",
)  # fmt: skip


def _names(incomplete: str) -> list[str]:
    from moe_leverage.design.huggingface import names

    return [name for name in names() if name.lower().startswith(incomplete.lower())]


Config = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        help="A Hugging Face config.json, or a name in data/models.",
        autocompletion=_names,
    ),
]


@app.command()
def explain(
    config: Config, compute: Compute = None, tokens: Tokens = None, as_json: Json = False
) -> None:
    """Count a model and say what the published and the measured law predict of it.

    Example: moe-leverage explain Ling-mini-beta --tokens 1e12
    """
    from moe_leverage.design import designer, huggingface

    found = designer.explain(huggingface.load(config), compute=compute, tokens=tokens)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2, allow_nan=False))
    else:
        _print_explanation(found)


@app.command()
def predict(
    activation_ratio: Annotated[
        float, typer.Option(help="A = (active + shared) / (routed + shared experts), up to 1.")
    ],
    granularity: Annotated[float, typer.Option(help="G = 2 d_model / d_expert.")],
    compute: Annotated[float, typer.Option(help="Training compute in FLOPs.")],
    from_file: Annotated[
        Path | None, typer.Option("--from", help="Answer from the fits that fit --save kept.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict the efficiency leverage at one point, by the published and by the measured law.

    Example: moe-leverage predict --activation-ratio 0.031 --granularity 12 --compute 1e22
    """
    from dataclasses import asdict

    if from_file is not None:
        from moe_leverage.your_runs import saved

        point = {"activation_ratio": activation_ratio, "granularity": granularity}
        answers = saved.predict(from_file, point | {"compute": compute})
        lines = [saved.sentence(name, one) for name, one in answers.items()]
        typer.echo(json.dumps(answers, indent=2) if as_json else "\n".join(lines))
        return

    from moe_leverage.design import prediction

    found = prediction.predict(
        activation_ratio=activation_ratio, granularity=granularity, compute=compute
    )
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2, allow_nan=False))
        return
    typer.echo(f"published law: EL = {_published(found.published)}")
    measured = found.measured
    said = measured.reason if measured.value is None else f"EL = {_measured(measured)}"
    typer.echo(f"measured law: {said}")
    typer.echo(IN_PARENTHESES)
    _print_notes(found.warnings, ())


@app.command()
def design(
    compute: Annotated[float, typer.Option(help="Training compute in FLOPs.")],
    tokens: Tokens = None,
    max_total_params: MaxParams = None,
    max_memory_gb: MaxMemory = None,
    min_activation_ratio: MinRatio = None,
    expert_parallel: Ranks = 1,
    hf: Out = None,
    as_json: Json = False,
) -> None:
    """Search buildable shapes for the highest predicted leverage at a budget.

    Example: moe-leverage design --compute 1e22 --tokens 1e12 --max-total-params 20e9
    """
    from dataclasses import asdict

    from moe_leverage.design import search

    limits = search.Limits(
        compute=compute,
        tokens=tokens,
        max_total_params=max_total_params,
        max_memory_gb=max_memory_gb,
        min_activation_ratio=min_activation_ratio,
        expert_parallel=expert_parallel,
    )
    designs = search.design(limits)
    if hf is not None:
        from moe_leverage.design.export import write_hf

        write_hf(designs[0].model, hf)
    if as_json:
        found = {"limits": asdict(limits), "designs": [one.to_dict() for one in designs]}
        typer.echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        _print_designs(designs, hf)


@app.command()
def compare(
    configs: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG...",
            help="Hugging Face configs, or names in data/models.",
            autocompletion=_names,
        ),
    ],
    compute: Compute = None,
    tokens: Tokens = None,
    as_json: Json = False,
) -> None:
    """Explain several models side by side, dense and mixture-of-experts alike.

    Example: moe-leverage compare Ling-mini-beta Dense-6.1B Qwen3-30B-A3B --tokens 1e12
    """
    from moe_leverage.design import designer, huggingface

    found = [
        designer.explain(huggingface.load(config), compute=compute, tokens=tokens)
        for config in configs
    ]
    if as_json:
        typer.echo(json.dumps([one.to_dict() for one in found], indent=2, allow_nan=False))
    else:
        _print_table([one.name for one in found], [_summary(one) for one in found])
        typer.echo(IN_PARENTHESES)
        for one in found:
            _print_notes(_told(one), one.assumptions, one.name)


def _summary(found: Explanation) -> dict[str, str]:
    """The rows of a table of models."""
    equal = found.dense_equivalent
    shape = equal.shape
    return {
        "activation ratio": f"{found.activation_ratio:.4g}",
        "granularity": f"{found.granularity:.3g}",
        "shared ratio": f"{found.shared_ratio:.3g}",
        "N": _billions(found.total_params),
        "N_a": _billions(found.active_params),
        "all parameters": _billions(found.parameters["total"]),
        "M, FLOPs": f"{found.flops_per_token['non_embedding']:.3g}",
        "D, tokens": f"{found.tokens:.3g}",
        "C, FLOPs": f"{found.compute:.3g}",
        "EL, published law": _published(found.published),
        "EL, measured law": _measured(found.measured),
        "dense equal, published": f"{_billions(equal.total_params)}, "
        f"{shape.num_layers} x {shape.d_model}",
        "its M, FLOPs": f"{equal.shape_flops_per_token:.3g}",
        "weights": f"{found.memory.weights_gb:.4g} GB",
        "training": f"{found.memory.training_gb:.4g} GB",
    }


def _print_explanation(found: Explanation) -> None:
    _print_table([found.name], [_summary(found)])
    flops = found.flops_per_token
    typer.echo(f"Forward FLOPs a token at {found.sequence_length} tokens ({found.convention}):")
    shares = {
        name.replace("_", " "): f"{flops[name]:.4g}  {flops[name] / flops['total']:6.1%}"
        for name in (*COMPONENTS, "total")
    }
    _print_table([found.name], [shares])
    typer.echo(IN_PARENTHESES)
    _print_notes(_told(found), found.assumptions)


def _print_designs(designs: list[Design], hf: Path | None) -> None:
    rows = []
    for one in designs:
        model = one.model
        rows.append(
            {
                "layers": f"{model.num_layers}, {model.num_dense_layers} dense",
                "d_model": f"{model.d_model}",
                "heads": f"{model.num_heads} x {model.d_head}, {model.num_kv_heads} key-value",
                "experts": f"{model.num_active_experts} of {model.num_experts}, "
                f"{model.num_shared_experts} shared",
                "d_expert": f"{model.d_expert}",
                "learning rate": f"{one.learning_rate:.3g}",
                "batch": f"{one.batch_sequences} x {one.explanation.sequence_length}",
            }
            | _summary(one.explanation)
            | {"a rank": f"{one.memory_per_rank_gb:.4g} GB"}
        )
    _print_table([f"design {i + 1}" for i in range(len(designs))], rows)
    for i, one in enumerate(designs):
        for bound in one.binding:
            typer.echo(f"design {i + 1}: {bound.constraint} binds: {bound.reason}")
    typer.echo(IN_PARENTHESES)
    _print_notes(_told(designs[0].explanation), designs[0].explanation.assumptions)
    if hf is not None:
        typer.echo(f"design 1 written to {hf}")


def _print_table(names: list[str], rows: list[dict[str, str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("", *names, box=box.SIMPLE_HEAD)
    for label in rows[0]:
        table.add_row(label, *(row[label] for row in rows))
    Console().print(table)


def _print_notes(warnings: tuple[str, ...], assumptions: tuple[str, ...], name: str = "") -> None:
    start = f"{name}: " if name else ""
    for kind, lines in (("warning", warnings), ("assumed", assumptions)):
        for line in lines:
            typer.echo(f"{start}{kind}: {line}")


def _told(found: Explanation) -> tuple[str, ...]:
    """The warnings, and why the measured law has no value where it has none."""
    reason = (f"measured law: {found.measured.reason}",) if found.measured.value is None else ()
    return (*found.warnings, *reason)


def _published(found: PublishedLeverage) -> str:
    return _leverage(found.value, found.rounding_range, found.in_domain)


def _measured(found: MeasuredLeverage) -> str:
    """The value with its interval, or the words before the colon of the reason for none."""
    if found.value is None:
        return found.reason.split(":")[0]
    return _leverage(found.value, found.interval, found.in_domain)


def _leverage(value: float, ends: tuple[float, float] | None, in_domain: bool) -> str:
    if ends is None or ends[0] == ends[1]:
        return f"{value:.3g}, by definition"
    return f"{value:.3g} ({ends[0]:.3g} to {ends[1]:.3g}){'' if in_domain else ', extrapolated'}"


def _billions(count: float) -> str:
    return f"{count / 1e9:.4g} B"
