"""Verbs that count and predict: explain a model, predict a point, design for a budget, compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe_leverage.cli import app
from moe_leverage.cli import laws as printed

if TYPE_CHECKING:
    from moe_leverage.design.designer import Explanation
    from moe_leverage.design.prediction import MeasuredLeverage, PublishedLeverage
    from moe_leverage.design.search import Design, Limits

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Compute = Annotated[float | None, typer.Option(help="Training compute in FLOPs.")]
Tokens = Annotated[float | None, typer.Option(help="Training tokens.")]

Length = Annotated[
    int | None,
    typer.Option("--sequence-length", min=1, help="Tokens of a sequence; the makers' own or 4096."),
]
Causal = Annotated[
    bool, typer.Option("--causal", help="Count half the square of the scores, and windows as such.")
]
Vocab = Annotated[int | None, typer.Option("--vocab", min=1, help="Another vocabulary size.")]

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

Objective = Annotated[
    str,
    typer.Option(help="What is sought: leverage, memory, or the weight of leverage from 0 to 1."),
]

IN_PARENTHESES = (
    "In parentheses: how far rounding lets the published value move; the measured 90 % interval."
)
COMPONENTS = (
    "attention_projections", "attention_scores", "router", "routed_experts", "shared_experts",
    "dense_ffn", "other", "state_updates", "logits",
)  # fmt: skip


def _names(incomplete: str) -> list[str]:
    from moe_leverage.design.huggingface import names

    return [name for name in names() if name.lower().startswith(incomplete.lower())]


Config = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        help="A config.json or params.json, a folder with one, or a name in data/models.",
        autocompletion=_names,
    ),
]


@app.command()
def explain(
    config: Config,
    compute: Compute = None,
    tokens: Tokens = None,
    laws: Annotated[bool, typer.Option("--laws", help="Ask every printed law as well.")] = False,
    sequence_length: Length = None,
    causal: Causal = False,
    vocab: Vocab = None,
    expert_parallel: Ranks = 1,
    as_json: Json = False,
) -> None:
    """Count a model and say what the published and the measured law predict of it.

    Example: moe-leverage explain Ling-mini-beta --tokens 1e12
    """
    from moe_leverage.design import designer, huggingface

    found = designer.explain(
        huggingface.load(config, vocab_size=vocab),
        compute=compute,
        tokens=tokens,
        sequence_length=sequence_length,
        causal=causal,
        expert_parallel=expert_parallel,
    )
    asked = printed.asked_of(found) if laws else ()
    if as_json:
        more = {"laws": [asdict(answer) for answer in asked]} if laws else {}
        typer.echo(json.dumps(found.to_dict() | more, indent=2, allow_nan=False))
        return
    _print_explanation(found)
    if laws:
        printed.show(asked, found.name, found.compute)


@app.command()
def predict(
    config: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            help="A Hugging Face config.json, or a name in data/models, instead of a point.",
            autocompletion=_names,
        ),
    ] = "",
    activation_ratio: Annotated[
        float | None,
        typer.Option(help="A = (active + shared) / (routed + shared experts), up to 1."),
    ] = None,
    granularity: Annotated[float | None, typer.Option(help="G = 2 d_model / d_expert.")] = None,
    compute: Compute = None,
    tokens: Tokens = None,
    law: Annotated[
        str, typer.Option(help="A printed law (a file of data/laws), or all of them: all.")
    ] = "",
    from_file: Annotated[
        Path | None, typer.Option("--from", help="Answer from the fits that fit --save kept.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict the efficiency leverage of a point or a model, by our two laws or by every one.

    Example: moe-leverage predict --activation-ratio 0.031 --granularity 12 --compute 1e22

    Example: moe-leverage predict Mixtral-8x7B --law all --tokens 1e12
    """
    from moe_leverage.config import require
    from moe_leverage.design import designer, huggingface, prediction

    if config:
        for name, given in (("activation-ratio", activation_ratio), ("granularity", granularity)):
            require(given is None, name, given, "is that of the model; give one of them")
        model = designer.explain(huggingface.load(config), compute=compute, tokens=tokens)
        printed.say(printed.asked_of(model, law or "all"), model.name, model.compute, as_json)
        if not as_json:
            _print_notes((), model.assumptions)
        return
    require(tokens is None, "tokens", tokens, "need a MODEL; a point has a compute")
    point = {"activation_ratio": activation_ratio, "granularity": granularity, "compute": compute}
    for name, given in point.items():
        option = f"--{name.replace('_', '-')}"
        require(given is not None, option, None, "is required without a MODEL")
    if from_file is not None:
        from moe_leverage.your_runs import saved

        answers = saved.predict(from_file, point)  # type: ignore[arg-type]  # none is None
        lines = [saved.sentence(name, answer) for name, answer in answers.items()]
        typer.echo(json.dumps(answers, indent=2) if as_json else "\n".join(lines))
        return
    found = prediction.predict(**point)  # type: ignore[arg-type]
    if law:
        printed.say(printed.asked_at(found, law), "the point", found.compute, as_json)
        return
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
    vocab: Annotated[int, typer.Option("--vocab", min=1, help="Vocabulary size.")] = 126_464,
    sequence_length: Annotated[
        int, typer.Option("--sequence-length", min=1, help="Tokens of a sequence.")
    ] = 4096,
    objective: Objective = "leverage",
    hf: Out = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
    as_json: Json = False,
) -> None:
    """Search buildable shapes for the highest predicted leverage at a budget.

    Example: moe-leverage design --compute 1e22 --tokens 1e12 --max-total-params 20e9
    """
    from moe_leverage import paths
    from moe_leverage.design import search
    from moe_leverage.design.export import require_writable, write_hf

    if hf is not None:
        paths.require_output("hf", hf)

    limits = search.Limits(
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
    if hf is not None:
        require_writable(hf, force=force)
    designs, frontier = search.design(limits), search.frontier(limits)
    if hf is not None:
        write_hf(designs[0].model, hf, sequence_length, force=force)
    if as_json:
        found = {
            "limits": asdict(limits),
            "designs": [design.to_dict() for design in designs],
            "frontier": [_on_frontier(entry) for entry in frontier],
        }
        typer.echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        _print_designs(designs, hf)
        _print_frontier(frontier, limits)


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

    found = []
    for config in configs:
        try:
            model = huggingface.load(config)
            found.append(designer.explain(model, compute=compute, tokens=tokens))
        except ValueError as error:
            raise ValueError(f"{config}: {error}") from error
    if as_json:
        typer.echo(json.dumps([entry.to_dict() for entry in found], indent=2, allow_nan=False))
    else:
        _print_table([entry.name for entry in found], [_summary(entry) for entry in found])
        typer.echo(IN_PARENTHESES)
        for entry in found:
            _print_notes(_told(entry), entry.assumptions, entry.name)
            _print_unused(entry, entry.name)


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
    length, way = found.sequence_length, f"{found.way}, convention {found.convention}"
    typer.echo(f"Forward FLOPs a token at {length} tokens ({way}):")
    shares = {
        name.replace("_", " "): f"{flops[name]:.4g}  {flops[name] / flops['total']:6.1%}"
        for name in (*COMPONENTS, "total")
        if flops[name] or name not in ("other", "state_updates")
    }
    _print_table([found.name], [shares])
    _print_kinds(found)
    _print_serving(found)
    typer.echo(IN_PARENTHESES)
    _print_notes(_told(found), found.assumptions)
    _print_unused(found)


def _print_kinds(found: Explanation) -> None:
    """The layers by the way they mix positions, and the experts where layers differ."""
    for mixer in found.mixers:
        seen = f", the last {mixer['window']} positions" if mixer["window"] else ""
        line = f"{mixer['layers']} layers: {mixer['kind']}{seen}"
        if mixer["score_flops"]:
            square, causal = mixer["score_flops"], mixer["causal_score_flops"]
            line += f"; scores {square:.4g} FLOPs a token over the square, {causal:.4g} causal"
        typer.echo(line)
    for expert in found.experts if len(found.experts) > 1 else ():
        typer.echo(
            f"{expert['layers']} MoE layers: {expert['num_active_experts']} of "
            f"{expert['num_experts']} experts {expert['d_expert']} wide, "
            f"{expert['num_shared_experts']} shared; "
            f"A {expert['activation_ratio']:.4g}, G {expert['granularity']:.3g}"
        )


def _print_serving(found: Explanation) -> None:
    told = found.serving
    weights = ", ".join(f"{name} {size:.4g}" for name, size in told.weights_gb.items())
    typer.echo(f"Weights in GB: {weights}")
    kinds = ", ".join(f"{kind} {size:.4g}" for kind, size in told.cache_bytes_per_token.items())
    length = found.sequence_length
    typer.echo(
        f"Cache in bytes a token (bf16): {kinds or 'none'}; {told.cache_gb:.4g} GB at {length}"
    )
    if told.expert_parallel > 1:
        typer.echo(
            f"One of {told.expert_parallel} expert-parallel ranks: {told.experts_per_rank:.4g} "
            f"experts a layer, weights {told.rank_weights_gb['bf16']:.4g} GB (bf16), "
            f"training {told.rank_training_gb:.4g} GB"
        )


def _print_unused(found: Explanation, name: str = "") -> None:
    if found.unused:
        start = f"{name}: " if name else ""
        typer.echo(f"{start}not used: {', '.join(found.unused)}")


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
            | _summary(design.explanation)
            | {"a rank": f"{design.memory_per_rank_gb:.4g} GB"}
        )
    _print_table([f"design {i + 1}" for i in range(len(designs))], rows)
    for i, design in enumerate(designs):
        for bound in design.binding:
            typer.echo(f"design {i + 1}: {bound.constraint} binds: {bound.reason}")
    typer.echo(IN_PARENTHESES)
    _print_notes(_told(designs[0].explanation), designs[0].explanation.assumptions)
    if hf is not None:
        typer.echo(f"design 1 written to {hf}")


def _weight(objective: str) -> float:
    """The weight of leverage that a word or a number names."""
    from moe_leverage.config import require

    named = {"leverage": 1.0, "memory": 0.0}
    if objective in named:
        return named[objective]
    try:
        return float(objective)
    except ValueError:
        rule = "must be leverage, memory or a number from 0 to 1"
        require(False, "objective", objective, rule)
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
        "within the limits": lambda design: "yes" if limits.hold(design) else "no",
    }
    sizes = [_billions(design.explanation.parameters["total"]) for design in designs]
    cells = [dict(zip(sizes, map(value, designs), strict=True)) for value in columns.values()]
    _print_table([*columns], cells, "all parameters")
    typer.echo("To check a design, train it and its dense equal small: moe-leverage study --help")


def _print_table(names: list[str], rows: list[dict[str, str]], corner: str = "") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(corner, *names, box=box.SIMPLE_HEAD)
    for label in rows[0]:
        table.add_row(label, *(row[label] for row in rows))
    Console().print(table)


def _print_notes(warnings: tuple[str, ...], assumptions: tuple[str, ...], name: str = "") -> None:
    start = f"{name}: " if name else ""
    for kind, lines in (("warning", warnings), ("note", assumptions)):
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
