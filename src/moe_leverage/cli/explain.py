"""Verbs that count and predict: explain a model, predict a point, compare several models."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe_leverage.cli import app, say, show_table
from moe_leverage.cli import laws as printed

if TYPE_CHECKING:
    from moe_leverage.design.designer import Explanation
    from moe_leverage.design.prediction import MeasuredLeverage, PublishedLeverage

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

Ranks = Annotated[int, typer.Option(help="Ranks over which the experts of a layer are spread.")]

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
    from moe_leverage.design import designer, huggingface, prediction
    from moe_leverage.rules import require

    rule = "is a printed law; --from keeps laws of its own"
    require(not law or from_file is None, "law", law, rule)
    point: dict[str, float | None] = {
        "activation_ratio": activation_ratio, "granularity": granularity, "compute": compute
    }  # fmt: skip
    if config:
        for name in ("activation_ratio", "granularity"):
            option = name.replace("_", "-")
            require(point[name] is None, option, point[name], "is that of the model; give one")
        model = designer.explain(huggingface.load(config), compute=compute, tokens=tokens)
        if from_file is None:
            printed.say(printed.asked_of(model, law or "all"), model.name, model.compute, as_json)
            if not as_json:
                print_notes((), model.assumptions)
            return
        point = {name: getattr(model, name) for name in point}
    else:
        require(tokens is None, "tokens", tokens, "need a MODEL; a point has a compute")
    for name, given in point.items():
        option = f"--{name.replace('_', '-')}"
        require(given is not None, option, None, "is required without a MODEL")
    if from_file is not None:
        from moe_leverage.your_runs import saved

        answers = saved.predict(from_file, point)  # type: ignore[arg-type]  # none is None
        if as_json:
            typer.echo(json.dumps(answers, indent=2))
        for name, answer in () if as_json else answers.items():
            say(saved.sentence(name, answer))
        return
    found = prediction.predict(**point)  # type: ignore[arg-type]
    if law:
        printed.say(printed.asked_at(found, law), "the point", found.compute, as_json)
        return
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2, allow_nan=False))
        return
    typer.echo(f"published law: EL = {say_published(found.published)}")
    measured = found.measured
    said = measured.reason if measured.value is None else f"EL = {say_measured(measured)}"
    typer.echo(f"measured law: {said}")
    typer.echo(IN_PARENTHESES)
    print_notes(found.warnings, ())


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
        print_table([entry.name for entry in found], [summary(entry) for entry in found])
        typer.echo(IN_PARENTHESES)
        for entry in found:
            print_notes(told(entry), entry.assumptions, entry.name)
            _print_unused(entry, entry.name)


def _print_explanation(found: Explanation) -> None:
    print_table([found.name], [summary(found)])
    flops = found.flops_per_token
    length, way = found.sequence_length, f"{found.way}, convention {found.convention}"
    typer.echo(f"Forward FLOPs a token at {length} tokens ({way}):")
    shares = {
        name.replace("_", " "): f"{flops[name]:.4g}  {flops[name] / flops['total']:6.1%}"
        for name in (*COMPONENTS, "total")
        if flops[name] or name not in ("other", "state_updates")
    }
    print_table([found.name], [shares])
    _print_kinds(found)
    _print_serving(found)
    typer.echo(IN_PARENTHESES)
    print_notes(told(found), found.assumptions)
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
        say(f"{start}not used: {', '.join(found.unused)}")


def summary(found: Explanation) -> dict[str, str]:
    """The rows of a table of models."""
    equal = found.dense_equivalent
    shape = equal.shape
    return {
        "activation ratio": f"{found.activation_ratio:.4g}",
        "granularity": f"{found.granularity:.3g}",
        "shared ratio": f"{found.shared_ratio:.3g}",
        "N": billions(found.total_params),
        "N_a": billions(found.active_params),
        "all parameters": billions(found.parameters["total"]),
        "M, FLOPs": f"{found.flops_per_token['non_embedding']:.3g}",
        "D, tokens": f"{found.tokens:.3g}",
        "C, FLOPs": f"{found.compute:.3g}",
        "EL, published law": say_published(found.published),
        "EL, measured law": say_measured(found.measured),
        "dense equal, published": f"{billions(equal.total_params)}, "
        f"{shape.num_layers} x {shape.d_model}",
        "its M, FLOPs": f"{equal.shape_flops_per_token:.3g}",
        "weights": f"{found.memory.weights_gb:.4g} GB",
        "training": f"{found.memory.training_gb:.4g} GB",
    }


def print_table(names: list[str], rows: list[dict[str, str]], corner: str = "") -> None:
    """A column for each name, a row for each label of `rows`."""
    cells = ([label, *(row[label] for row in rows)] for label in rows[0])
    show_table([corner, *names], cells)


def print_notes(warnings: tuple[str, ...], assumptions: tuple[str, ...], name: str = "") -> None:
    """A line for each warning and note, each with the name of its model where several are told."""
    start = f"{name}: " if name else ""
    for kind, lines in (("warning", warnings), ("note", assumptions)):
        for line in lines:
            say(f"{start}{kind}: {line}")


def told(found: Explanation) -> tuple[str, ...]:
    """The warnings, and why the measured law has no value where it has none."""
    reason = (f"measured law: {found.measured.reason}",) if found.measured.value is None else ()
    return (*found.warnings, *reason)


def say_published(found: PublishedLeverage) -> str:
    """The value, and how far rounding of the coefficients lets it move."""
    return _leverage(found.value, found.rounding_range, found.in_domain)


def say_measured(found: MeasuredLeverage) -> str:
    """The value with its interval, or the words before the colon of the reason for none."""
    if found.value is None:
        return found.reason.split(":")[0]
    return _leverage(found.value, found.interval, found.in_domain)


def _leverage(value: float, ends: tuple[float, float] | None, in_domain: bool) -> str:
    if ends is None or ends[0] == ends[1]:
        return f"{value:.3g}, by definition"
    return f"{value:.3g} ({ends[0]:.3g} to {ends[1]:.3g}){'' if in_domain else ', extrapolated'}"


def billions(count: float) -> str:
    """A count of parameters.

    >>> billions(16_255_643_392)
    '16.26 B'
    """
    return f"{count / 1e9:.4g} B"
