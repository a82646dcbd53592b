"""One model under every printed law: what each says of its leverage, and how far it may be trusted.

    A, G   activation ratio and granularity: the layout, which a law may carry to any size
    C      training compute, FLOPs
    EL     efficiency leverage

A law of the loss gives EL with both sides at its own optimum for C; one that knows no tokens gives
it at the size of the model and the tokens of its runs. `basis` says which. Beside it stands EL with
both sides trained on the model's own tokens, where a law can say it: a model trained far beyond its
optimum gains less or more there. Outside the range of its runs an answer is an extrapolation. A law
that does not return the statements of its own paper, or lacks a variable, says so; the others
answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_leverage.accounting import TRAINING_PASSES, count_forward_flops, count_parameters
from moe_leverage.axes import quantity
from moe_leverage.config import PAPER_SEQUENCE_LENGTH, ModelConfig
from moe_leverage.design.designer import Explanation
from moe_leverage.design.prediction import BY_DEFINITION, MeasuredLeverage
from moe_leverage.rules import require
from moe_leverage.theory.forms import FIXED_TOKENS, OWN_OPTIMUM, Layout
from moe_leverage.theory.frontier import leverage_at_optimum, leverage_at_tokens, optimum
from moe_leverage.theory.printed import PrintedLaw, Sides, find_law, printed_laws
from moe_leverage.theory.statements import standing

ALL = "all"
OWN = "this-book"  # the law fitted to our own runs, among the answers
OWN_TITLE = "this book's own runs"
NOT_RETURNED = "as printed, it does not return the statements of its own paper"
OUT_OF_REACH = "no dense model of this law reaches the loss of the mixture"
UNITS = {"compute": "FLOPs", "num_tokens": "tokens", "active_params": "parameters"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LawAnswer:
    """What one law says of the leverage of one model; without a value the reason says why."""

    law: str
    title: str
    value: float | None
    in_domain: bool
    reason: str
    basis: str = ""
    at_its_tokens: float | None = None  # EL with both sides trained on the model's own tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A mixture as the laws are asked about it: its layout, its compute and, if known, its size."""

    layout: Layout
    compute: float
    active_params: float | None = None
    num_tokens: float | None = None


def leverage_of(
    law: PrintedLaw | str,
    model: ModelConfig,
    *,
    tokens: float | None = None,
    compute: float | None = None,
    sequence_length: int = PAPER_SEQUENCE_LENGTH,
) -> LawAnswer:
    """EL of a model by one law, at so many tokens or so much compute.

    >>> from moe_leverage.design.huggingface import load
    >>> said = leverage_of("ludziejewski-2025", load("Mixtral-8x7B").model, compute=1e21)
    >>> round(said.value, 2), said.basis
    (1.45, 'own optimum')
    """
    require((tokens is None) != (compute is None), "tokens", tokens, "give tokens or compute")
    per_token = TRAINING_PASSES * count_forward_flops(model, sequence_length).total
    spent = quantity("compute", compute) if compute is not None else 0.0
    num_tokens = quantity("tokens", tokens) if tokens is not None else spent / per_token
    asked = Asked(
        layout=layout_of(model.activation_ratio, model.granularity),
        compute=spent or num_tokens * per_token,
        active_params=count_parameters(model).active_non_vocabulary,
        num_tokens=num_tokens,
    )
    return answer(find_law(law) if isinstance(law, str) else law, asked)


def answers(found: Explanation, name: str = ALL) -> tuple[LawAnswer, ...]:
    """What every law, or the one of this name, says of an explained model; our own comes last.

    >>> from moe_leverage.design.designer import explain
    >>> from moe_leverage.design.huggingface import load
    >>> [one.law for one in answers(explain(load("OLMoE-1B-7B")))][::9]
    ['tian-2025', 'this-book']
    """
    asked = Asked(
        layout=layout_of(found.activation_ratio, found.granularity),
        compute=found.compute,
        active_params=found.active_params,
        num_tokens=found.tokens,
    )
    return answers_at(asked, found.measured, name)


def answers_at(asked: Asked, own: MeasuredLeverage, name: str = ALL) -> tuple[LawAnswer, ...]:
    """What every law, or the one of this name, says of a mixture; `own` is our own law's answer."""
    if name == OWN:
        return (_own(own),)
    if name != ALL:
        return (answer(find_law(name), asked),)
    return (*(answer(law, asked) for law in printed_laws()), _own(own))


def answer(law: PrintedLaw, asked: Asked) -> LawAnswer:
    """What one law says of a mixture."""
    said: dict[str, Any] = {"law": law.id, "title": law.title, "value": None, "in_domain": False}
    if law.missing:
        return LawAnswer(**said, reason=law.missing)
    reading = standing(law).reading
    if reading is None:
        return LawAnswer(**said, reason=NOT_RETURNED)
    if asked.layout.activation_ratio == 1:
        said |= {"value": 1.0, "in_domain": True, "at_its_tokens": 1.0}
        return LawAnswer(**said, reason=BY_DEFINITION)
    sides = law.sides(reading)
    said["basis"] = OWN_OPTIMUM if sides.mixture.knows_tokens else FIXED_TOKENS
    if sides.mixture.needs_granularity and asked.layout.granularity is None:
        return LawAnswer(**said, reason="granularity is a variable of this law, and not known")
    value, point = _value(law, sides, asked)
    said["at_its_tokens"] = _at_its_tokens(sides, asked)
    if math.isnan(value):
        return LawAnswer(**said, reason=OUT_OF_REACH)
    outside = _outside(law.domain or sides.mixture.domain, point | {"efficiency_leverage": value})
    said |= {"value": value, "in_domain": not outside}
    return LawAnswer(**said, reason=f"extrapolated: {'; '.join(outside)}" if outside else "")


def layout_of(activation_ratio: float, granularity: float) -> Layout:
    """The layout of a model; a dense one has none but A = 1."""
    return Layout(
        activation_ratio=activation_ratio,
        granularity=granularity if 0 < granularity < math.inf else None,
    )


def _value(law: PrintedLaw, sides: Sides, asked: Asked) -> tuple[float, dict[str, float]]:
    """EL on the law's own basis, and the point at which it was asked on the axes of a domain."""
    layout, mixture = asked.layout, sides.mixture
    point = {"activation_ratio": layout.activation_ratio, "compute": asked.compute}
    if layout.granularity is not None:
        point["granularity"] = layout.granularity
    if mixture.gives_leverage:
        return mixture.leverage(layout, asked.compute), point
    if not mixture.knows_tokens:
        tokens = law.num_tokens or 0.0
        size = asked.active_params or asked.compute / (2 * TRAINING_PASSES * tokens)
        value = leverage_at_tokens(mixture, sides.dense, layout, size, tokens)
        return value, point | {"active_params": size}
    best = optimum(mixture, layout, asked.compute)
    sizes = {
        "active_params": best.active_params,
        "total_params": best.active_params * layout.total_over_active,
        "num_tokens": best.num_tokens,
    }
    return leverage_at_optimum(mixture, sides.dense, layout, asked.compute), point | sizes


def _at_its_tokens(sides: Sides, asked: Asked) -> float | None:
    mixture = sides.mixture
    if mixture.gives_leverage or not mixture.knows_tokens:
        return None
    if asked.active_params is None or asked.num_tokens is None:
        return None
    value = leverage_at_tokens(
        mixture, sides.dense, asked.layout, asked.active_params, asked.num_tokens
    )
    return None if math.isnan(value) else value


def _outside(
    domain: Mapping[str, tuple[float, float]], point: Mapping[str, float]
) -> Sequence[str]:
    """Each axis on which a point leaves the runs of a law, in words."""
    slack = 1e-3  # ends are printed with few digits
    return [
        f"{name} = {point[name]:.3g} {UNITS.get(name, '')}".rstrip() + f", runs {_ends(low, high)}"
        for name, (low, high) in domain.items()
        if name in point and not low * (1 - slack) <= point[name] <= high * (1 + slack)
    ]


def _ends(low: float, high: float) -> str:
    return f"at {low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _own(found: MeasuredLeverage) -> LawAnswer:
    return LawAnswer(
        law=OWN,
        title=OWN_TITLE,
        value=found.value,
        in_domain=found.in_domain,
        reason=found.reason or ("" if found.in_domain else "extrapolated beyond our own runs"),
        basis=OWN_OPTIMUM if found.value is not None else "",
    )
