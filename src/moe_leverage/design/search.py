"""The shape of highest predicted leverage for a compute budget, among shapes that can be built.

Section 5 picks one such shape by hand; here every layout on a grid of whole experts, layers and
hardware-friendly widths is counted exactly, the limits are applied, and what bound is reported.

    C        compute, FLOPs, spent as three exact forward passes over D tokens
    M        non-embedding FLOPs of one token's forward pass; training costs 3 M, which Table 1
             calls M_opt: so read, its D_opt are a third to a fifth of what Tables 7 and 8 spend
    E        routed experts: the one size left free on the grid, as large as the limits allow
    EL       efficiency leverage, Equation 13
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from moe_leverage.accounting import TRAINING_PASSES, count_forward_flops, count_parameters
from moe_leverage.axes import routed_experts
from moe_leverage.config import ModelConfig
from moe_leverage.design.designer import (
    GIGABYTE,
    TRAINING_BYTES,
    Explanation,
    explain,
)
from moe_leverage.design.huggingface import of_model
from moe_leverage.design.layouts import (
    NUM_DENSE,
    NUM_SHARED,
    Column,
    as_model,
    changed,
    layouts,
)
from moe_leverage.design.limits import (
    Limits,
    band,
    costs_of,
    require_feasible,
    require_near,
    require_reachable,
)
from moe_leverage.theory.laws import PUBLISHED
from moe_leverage.theory.leverage import efficiency_leverage

NUM_LAYERS = np.arange(4.0, 129.0)
ASPECT = (48, 160)  # d_model / num_layers: Tables 7 and 8 have 48 to 80, Ling-mini-beta 102
FRONTIER_FROM = 2.0  # total over active parameters at the lower end of the frontier
EXPERT_STEP = 8  # E is a multiple of this, and of the expert-parallel ranks
BEST_ATTENTION_SHARE = (0.3, 0.4)  # of M (Appendix D); decides among equals
MAX_ATTENTION_SHARE = 0.5  # of M; nearly flat up to here (Appendix D); kept where any shape can
NUM_EXPERTS_TRIED = 17  # numbers of experts of a layout where parameters count as well
LEVERAGE_TOLERANCE = 0.01  # relative; designs closer than this to the best count as equals


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """A limit that the design touches, and why."""

    constraint: str
    limit: float
    value: float
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """One buildable model, how to train it, and which limits shaped it."""

    explanation: Explanation
    model: ModelConfig
    learning_rate: float
    batch_tokens: int
    batch_sequences: int
    memory_per_rank_gb: float
    binding: tuple[Binding, ...]

    def within(self, limits: Limits) -> bool:
        """Whether it keeps the limits on parameters and memory."""
        return limits.hold(self.explanation.parameters["total"], self.memory_per_rank_gb)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: the explanation's fields, then the design's own."""
        own = asdict(self)
        explanation: dict[str, Any] = own.pop("explanation")
        return explanation | own


def design(limits: Limits, count: int = 3) -> list[Design]:
    """The best shapes within `limits`, one a width; equals in leverage by their attention share.

    D = C / (3 x forward); M is within 5 % of Table 1's optimum at C, or, if D is given, so large
    that C is spent by at most D tokens and at least 5 % fewer.
    Raises ValueError naming the limit that cannot be met and by how much.

    >>> best = design(Limits(compute=1e22, max_total_params=100e9))[0]
    >>> best.explanation.parameters["total"] <= 100e9, best.binding[0].constraint
    (True, 'max_total_params')
    """
    grid = _of_right_size(layouts(limits.vocab_size), limits)
    bounds = _expert_bounds(grid, limits)
    step = math.lcm(EXPERT_STEP, limits.expert_parallel)
    fewest = step * np.ceil(grid.num_active_experts / step)
    require_feasible(grid, fewest, limits)
    most = step * np.floor(np.min(list(bounds.values()), axis=0) / step)
    price = _price(grid, fewest, most, limits)
    grid.num_experts = _best_experts(grid, fewest, most, step, limits, price)
    size, share = _size(grid, limits)
    feasible = most >= fewest
    require_near(size[feasible], limits)
    low, high = band(limits)
    feasible &= (size <= high) & (size >= low)
    narrow = feasible & (share <= MAX_ATTENTION_SHARE)
    feasible = narrow if narrow.any() else feasible
    chosen = _ranked(grid, np.where(feasible, _score(grid, limits, price), -np.inf), share, count)
    return [_finish(grid, row, bounds, step, limits) for row in chosen]


def frontier(limits: Limits, count: int = 6) -> list[Design]:
    """The best design under each of several limits on all parameters, the last without one.

    The budget fixes M; what more parameters buy is a smaller A, and so EL. The limits on parameters
    and memory that were given are one of its points; the others show what lies on either side.

    >>> sizes = [one.explanation.parameters["total"] for one in frontier(Limits(compute=1e22), 3)]
    >>> sizes == sorted(sizes)
    True
    """
    asked = replace(limits, objective=1.0)
    unbound = replace(asked, max_total_params=None, max_memory_gb=None)
    (free,) = design(unbound, 1)
    most = free.explanation.parameters["total"]
    least = max(free.explanation.parameters["active"] * FRONTIER_FROM, 1.0)
    found = design(asked, 1)
    for total in np.geomspace(least, most, count)[:-1]:
        try:
            found += design(replace(unbound, max_total_params=float(total)), 1)
        except ValueError:
            continue  # no shape of this budget is that small
    sizes = {entry.explanation.parameters["total"]: entry for entry in (*found, free)}
    return [sizes[size] for size in sorted(sizes)]


def _of_right_size(grid: SimpleNamespace, limits: Limits) -> SimpleNamespace:
    """Layouts at every depth at which some E gives the M or D called for."""
    active = grid.num_active_experts
    ends = []
    for num_experts in (active, active / limits.smallest_activation_ratio):
        layer = {"num_layers": grid.num_layers + 1, "num_moe_layers": grid.num_moe_layers + 1}
        shallow, _ = _size(changed(grid, num_experts=num_experts), limits)
        deeper, _ = _size(changed(grid, num_experts=num_experts, **layer), limits)
        added = NUM_LAYERS - (NUM_DENSE + 1)
        ends.append(shallow[:, None] + (deeper - shallow)[:, None] * added)
    aspect = grid.d_model[:, None] / NUM_LAYERS
    shaped = (aspect >= ASPECT[0]) & (aspect <= ASPECT[1])
    require_reachable(ends[0][shaped], ends[1][shaped], limits)
    low, high = band(limits)
    rows, depths = np.nonzero(shaped & (ends[0] <= high) & (ends[1] >= low))
    return as_model(
        grid.d_model[rows],
        grid.d_expert[rows],
        active[rows],
        NUM_LAYERS[depths],
        limits.vocab_size,
    )


def _size(model: SimpleNamespace, limits: Limits) -> tuple[Column, Column]:
    """3 M over that of Table 1, or C at the D asked over the budget; and attention's share of M."""
    flops: Any = count_forward_flops(cast(ModelConfig, model), limits.sequence_length)
    share = (flops.attention_projections + flops.attention_scores) / flops.non_embedding
    if limits.tokens is None:
        return TRAINING_PASSES * flops.non_embedding / PUBLISHED.moe_model(limits.compute), share
    return TRAINING_PASSES * flops.total * limits.tokens / limits.compute, share


def _expert_bounds(grid: SimpleNamespace, limits: Limits) -> dict[str, Column]:
    """The largest E that each limit allows, per layout."""
    served_by = grid.num_active_experts + NUM_SHARED
    most = routed_experts(limits.smallest_activation_ratio, served_by, NUM_SHARED)
    bounds = {"min_activation_ratio": most}
    for name, (base, slope) in costs_of(grid, limits).items():
        if getattr(limits, name) is not None:
            bounds[name] = (getattr(limits, name) - base) / slope
    return bounds


def _leverage(grid: SimpleNamespace, num_experts: Column, compute: float) -> Column:
    active = grid.num_active_experts + NUM_SHARED
    ratio = np.minimum(active / np.maximum(num_experts + NUM_SHARED, active), 1.0)
    granularity = 2 * grid.d_model / grid.d_expert
    point = {"activation_ratio": ratio, "granularity": granularity, "compute": compute}
    return cast(Column, efficiency_leverage(PUBLISHED.joint, **point))


def _score(grid: SimpleNamespace, limits: Limits, price: float) -> Column:
    """EL ** w / total ** ((1 - w) price), with w the weight of leverage: what is sought."""
    leverage = _leverage(grid, grid.num_experts, limits.compute)
    total = cast(Column, count_parameters(cast(ModelConfig, grid)).total)
    return leverage**limits.objective / total ** ((1 - limits.objective) * price)


def _price(grid: SimpleNamespace, fewest: Column, most: Column, limits: Limits) -> float:
    """ln EL over ln total, each from its least to its most at this budget.

    In these units both range over the same, so that a weight of 0.5 lies between and not at an end.
    """
    allowed = most >= fewest
    ends = [changed(grid, num_experts=experts) for experts in (fewest, most)]
    leverage = np.array([_leverage(end, end.num_experts, limits.compute)[allowed] for end in ends])
    total = np.array(
        [cast(Any, count_parameters(cast(ModelConfig, e))).total[allowed] for e in ends]
    )
    if not allowed.any() or total.min() == total.max():
        return 0.0
    return float(np.log(leverage.max() / leverage.min()) / np.log(total.max() / total.min()))


def _best_experts(
    grid: SimpleNamespace, fewest: Column, most: Column, step: int, limits: Limits, price: float
) -> NDArray[np.int64]:
    """The E of each layout that scores best.

    EL is monotonic in E, so that leverage alone is best at an end: the most experts above the
    break-even compute, the fewest below. With parameters in the score, E is tried between.
    """
    most = np.maximum(most, fewest)
    between = np.linspace(0, 1, 2 if limits.objective == 1 else NUM_EXPERTS_TRIED)
    tried = [step * np.round(most * (fewest / most) ** share / step) for share in between]
    scores = [_score(changed(grid, num_experts=experts), limits, price) for experts in tried]
    best = np.argmax(scores, axis=0)[None]
    found: NDArray[np.int64] = np.take_along_axis(np.stack(tried), best, axis=0)[0].astype(np.int64)
    return found


def _ranked(grid: SimpleNamespace, leverage: Column, share: Column, count: int) -> list[int]:
    """Best rows, equals in leverage ordered by attention's share; first one of each width."""
    low, high = BEST_ATTENTION_SHARE
    off = np.round(np.maximum(np.maximum(low - share, share - high), 0), 2)
    equal = leverage >= leverage.max() * (1 - LEVERAGE_TOLERANCE)
    order = np.lexsort((-leverage, np.where(equal, off, -leverage), ~equal))
    order = order[np.isfinite(leverage[order])]
    _, first = np.unique(grid.d_model[order], return_index=True)
    best_of_width = np.sort(first)
    others = np.delete(np.arange(len(order)), best_of_width)
    return [int(row) for row in order[np.concatenate((best_of_width, others))][:count]]


def _finish(
    grid: SimpleNamespace, row: int, bounds: Mapping[str, Column], step: int, limits: Limits
) -> Design:
    sizes = {f.name: getattr(grid, f.name) for f in fields(ModelConfig) if hasattr(grid, f.name)}
    sizes = {
        name: int(value[row]) if isinstance(value, np.ndarray) else value
        for name, value in sizes.items()
    }
    model = ModelConfig(**sizes)
    found = of_model(f"design-d{model.d_model}-l{model.num_layers}", model)
    explanation = explain(
        found,
        compute=limits.compute,
        sequence_length=limits.sequence_length,
        expert_parallel=limits.expert_parallel,
    )
    parameters = explanation.parameters
    elsewhere = parameters["routed_experts"] * (1 - 1 / limits.expert_parallel)
    batch = float(PUBLISHED.batch_tokens(limits.compute))
    sequences = max(1, round(batch / limits.sequence_length))
    return Design(
        explanation=explanation,
        model=model,
        learning_rate=float(PUBLISHED.learning_rate(limits.compute)),
        batch_tokens=sequences * limits.sequence_length,
        batch_sequences=sequences,
        memory_per_rank_gb=(parameters["total"] - elsewhere) * TRAINING_BYTES / GIGABYTE,
        binding=_binding(grid, row, bounds, step, limits, explanation.tokens),
    )


def _binding(
    grid: SimpleNamespace,
    row: int,
    bounds: Mapping[str, Column],
    step: int,
    limits: Limits,
    spent: float,
) -> tuple[Binding, ...]:
    """Limits that one more step of experts would break."""
    experts = int(grid.num_experts[row])
    found = []
    for name, bound in bounds.items():
        if experts + step <= bound[row]:
            continue
        limit, value, unit = _met(grid, row, name, limits)
        reason = (
            f"{experts} experts a layer; {experts + step} would take it beyond "
            f"{limit:.4g}{unit}, and EL grows with experts"
        )
        if name == "min_activation_ratio":
            given = limits.min_activation_ratio is not None
            reason += "" if given else "; no run behind the law has a smaller A"
        else:
            reason += "; the budget fixes M, and with M this limit fixes A"
            if limits.tokens is None:
                reason += "; --tokens with more of them makes M smaller and leaves room for experts"
        found.append(Binding(constraint=name, limit=limit, value=value, reason=reason))
    if limits.expert_parallel > EXPERT_STEP:
        reason = f"the experts of a layer come in multiples of {step}"
        ranks = limits.expert_parallel
        found.append(
            Binding(constraint="expert_parallel", limit=ranks, value=experts, reason=reason)
        )
    if limits.objective < 1:
        total = float(cast(Any, count_parameters(cast(ModelConfig, grid))).total[row])
        reason = "weighs EL against parameters, each by what this budget lets it range over"
        found.append(
            Binding(constraint="objective", limit=limits.objective, value=total, reason=reason)
        )
    if limits.tokens is not None:
        wanted, best = limits.tokens, float(PUBLISHED.moe_tokens(limits.compute))
        reason = f"fixes M from below; Table 1 would train on {best:.3g} tokens at this compute"
        found.append(Binding(constraint="tokens", limit=wanted, value=spent, reason=reason))
    return tuple(found)


def _met(grid: SimpleNamespace, row: int, name: str, limits: Limits) -> tuple[float, float, str]:
    """A limit, the design's value of it, and its unit."""
    experts = int(grid.num_experts[row])
    if name == "min_activation_ratio":
        active = int(grid.num_active_experts[row]) + NUM_SHARED
        return limits.smallest_activation_ratio, active / (experts + NUM_SHARED), ""
    base, slope = costs_of(grid, limits)[name]
    value = float(base[row] + experts * slope[row])
    unit = " parameters" if name == "max_total_params" else " GB a rank"
    return float(getattr(limits, name)), value, unit
