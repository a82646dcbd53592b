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
from moe_leverage.config import (
    PAPER_SEQUENCE_LENGTH,
    PAPER_VOCABULARY_SIZE,
    ModelConfig,
    RoutingConfig,
    require,
    routed_experts,
)
from moe_leverage.design.designer import (
    GIGABYTE,
    TRAINING_BYTES,
    Explanation,
    explain,
)
from moe_leverage.design.huggingface import of_model
from moe_leverage.theory.laws import PUBLISHED
from moe_leverage.theory.leverage import efficiency_leverage

WIDTHS = (128, *range(256, 2048, 256), *range(2048, 16_385, 512))  # d_model
WIDE = 2048  # from this d_model on, heads are 128 wide instead of 64 and experts multiples of 64
EXPERT_MULTIPLES = (16, 64)  # of d_expert, below WIDE and from it on
KV_GROUP = 4  # query heads for each key-value head, as in both models of Table 3
KV_RANKS = (8, 4, 2, 1)  # ranks over which key-value heads are to divide, the most first
NUM_LAYERS = np.arange(4.0, 129.0)
ASPECT = (48, 160)  # d_model / num_layers: Tables 7 and 8 have 48 to 80, Ling-mini-beta 102
MAX_ACTIVE = 32
FRONTIER_FROM = 2.0  # total over active parameters at the lower end of the frontier
ACTIVE_FFN_RATIO = (2.0, 4.0)  # active FFN width / d_model: the paper's baseline has 3
NUM_SHARED = 1  # one shared expert is the paper's advice (Section 4.1)
NUM_DENSE = 1  # first layers with a dense FFN, as in Ling-mini-beta; EL of about 1 (Appendix D)
EXPERT_STEP = 8  # E is a multiple of this, and of the expert-parallel ranks
BEST_ATTENTION_SHARE = (0.3, 0.4)  # of M (Appendix D); decides among equals
MAX_ATTENTION_SHARE = 0.5  # of M; nearly flat up to here (Appendix D); kept where any shape can
TOLERANCE = 1.05  # factor by which M or D may differ from what is asked
LEVERAGE_TOLERANCE = 0.01  # relative; designs closer than this to the best count as equals
# transformers has no class with raw gates beside shared experts; renormalised ones it has.
ROUTING = RoutingConfig(renormalise=True)

Column = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a design must keep to; None where there is no limit."""

    compute: float
    tokens: float | None = None
    max_total_params: float | None = None  # vocabulary included
    max_memory_gb: float | None = None  # of one rank: weights, gradients, optimiser
    min_activation_ratio: float | None = None  # None: the smallest behind the law
    expert_parallel: int = 1  # ranks over which the experts of a layer are spread
    vocab_size: int = PAPER_VOCABULARY_SIZE
    sequence_length: int = PAPER_SEQUENCE_LENGTH
    objective: float = 1.0  # weight of leverage; the rest is that of few parameters

    def __post_init__(self) -> None:
        for name in ("compute", "tokens", "max_total_params", "max_memory_gb"):
            value = getattr(self, name)
            holds = value is None or 0 < value < math.inf
            require(holds, name, value, "must be a positive, finite number")
        ratio, ranks = self.min_activation_ratio, self.expert_parallel
        holds = ratio is None or 0 < ratio <= 1
        require(holds, "min_activation_ratio", ratio, "must be above 0 and at most 1")
        require(1 <= ranks <= 65_536, "expert_parallel", ranks, "must be from 1 to 65536")
        for name in ("vocab_size", "sequence_length"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be 1 or more")
        weight = self.objective
        require(0 <= weight <= 1, "objective", weight, "must be from 0 (memory) to 1 (leverage)")

    @property
    def smallest_activation_ratio(self) -> float:
        """The limit on A, that of the law's runs where none is given."""
        if self.min_activation_ratio is not None:
            return self.min_activation_ratio
        return PUBLISHED.joint.domain["activation_ratio"][0]

    def hold(self, found: Design) -> bool:
        """Whether a design keeps the limits on parameters and memory."""
        total, rank = found.explanation.parameters["total"], found.memory_per_rank_gb
        return total <= (self.max_total_params or total) and rank <= (self.max_memory_gb or rank)


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
    grid = _of_right_size(_layouts(limits), limits)
    bounds = _expert_bounds(grid, limits)
    step = math.lcm(EXPERT_STEP, limits.expert_parallel)
    fewest = step * np.ceil(grid.num_active_experts / step)
    _require_feasible(grid, fewest, limits)
    most = step * np.floor(np.min(list(bounds.values()), axis=0) / step)
    grid.num_experts = _better_end(grid, fewest, most, limits.compute)
    size, share = _size(grid, limits)
    feasible = most >= fewest
    _require_near(size[feasible], limits)
    low, high = _band(limits)
    feasible &= (size <= high) & (size >= low)
    narrow = feasible & (share <= MAX_ATTENTION_SHARE)
    feasible = narrow if narrow.any() else feasible
    leverage = _leverage(grid, grid.num_experts, limits.compute)
    count_of: Any = count_parameters(cast(ModelConfig, grid))
    score = leverage**limits.objective / count_of.total ** (1 - limits.objective)
    chosen = _ranked(grid, np.where(feasible, score, -np.inf), share, count)
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


def _band(limits: Limits) -> tuple[float, float]:
    """What `_size` may be: within 5 % of Table 1's optimum; a token limit is never exceeded."""
    return (1 / TOLERANCE, TOLERANCE) if limits.tokens is None else (1.0, TOLERANCE)


def _kv_heads(heads: Column) -> Column:
    """A fourth of the heads, brought down or up to what divides over 2, 4 or 8 ranks."""
    wanted = np.maximum(heads // KV_GROUP, 1)
    found = np.ones_like(wanted)
    for ranks in KV_RANKS[::-1]:
        nearest = np.maximum(wanted // ranks * ranks, ranks)
        fits = (heads % nearest == 0) & (wanted >= ranks)
        found = np.where(fits, nearest, found)
    return found


def _layouts(limits: Limits) -> SimpleNamespace:
    """Every width, expert width and number of active experts, two layers deep, without experts."""
    low, high = PUBLISHED.joint.domain["granularity"]
    found = []
    for d_model in WIDTHS:
        multiple = EXPERT_MULTIPLES[d_model >= WIDE]
        for d_expert in range(multiple, int(2 * d_model / low) + 1, multiple):
            active = np.arange(1, MAX_ACTIVE + 1)
            ratio = (active + NUM_SHARED) * d_expert / d_model
            kept = (ratio >= ACTIVE_FFN_RATIO[0]) & (ratio <= ACTIVE_FFN_RATIO[1])
            if 2 * d_model / d_expert <= high:
                found += [(d_model, d_expert, int(n)) for n in active[kept]]
    d_model, d_expert, active = np.array(found).T
    shallow = np.full_like(active, NUM_DENSE + 1)
    return _as_model(d_model, d_expert, active, shallow, limits.vocab_size)


def _as_model(
    d_model: Column,
    d_expert: Column,
    active: Column,
    num_layers: Column,
    vocab_size: int = PAPER_VOCABULARY_SIZE,
) -> SimpleNamespace:
    """A model whose sizes are arrays, for `accounting`; E is still 0."""
    d_head = np.where(d_model >= WIDE, 128, 64)
    heads = d_model // d_head
    d_active_ffn = (active + NUM_SHARED) * d_expert
    defaults = {f.name: f.default for f in fields(ModelConfig)}
    sizes = {
        "vocab_size": vocab_size,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": heads,
        "num_kv_heads": _kv_heads(heads),
        "d_head": d_head,
        "d_ffn": d_active_ffn,
        "num_experts": np.zeros_like(active),
        "num_active_experts": active,
        "num_shared_experts": NUM_SHARED,
        "d_expert": d_expert,
        "d_shared": NUM_SHARED * d_expert,
        "num_dense_layers": NUM_DENSE,
        "routing": ROUTING,
        "is_moe": True,
        "num_moe_layers": num_layers - NUM_DENSE,
        "d_active_ffn": d_active_ffn,
    }
    return SimpleNamespace(**defaults | sizes)


def _of_right_size(layouts: SimpleNamespace, limits: Limits) -> SimpleNamespace:
    """Layouts at every depth at which some E gives the M or D called for."""
    active = layouts.num_active_experts
    ends = []
    for num_experts in (active, active / limits.smallest_activation_ratio):
        layer = {"num_layers": layouts.num_layers + 1, "num_moe_layers": layouts.num_moe_layers + 1}
        shallow, _ = _size(_with(layouts, num_experts=num_experts), limits)
        deeper, _ = _size(_with(layouts, num_experts=num_experts, **layer), limits)
        added = NUM_LAYERS - (NUM_DENSE + 1)
        ends.append(shallow[:, None] + (deeper - shallow)[:, None] * added)
    aspect = layouts.d_model[:, None] / NUM_LAYERS
    shaped = (aspect >= ASPECT[0]) & (aspect <= ASPECT[1])
    _require_reachable(ends[0][shaped], ends[1][shaped], limits)
    low, high = _band(limits)
    rows, depths = np.nonzero(shaped & (ends[0] <= high) & (ends[1] >= low))
    return _as_model(
        layouts.d_model[rows],
        layouts.d_expert[rows],
        active[rows],
        NUM_LAYERS[depths],
        limits.vocab_size,
    )


def _with(model: SimpleNamespace, **changes: Any) -> SimpleNamespace:
    return SimpleNamespace(**vars(model) | changes)


def _size(model: SimpleNamespace, limits: Limits) -> tuple[Column, Column]:
    """3 M over that of Table 1, or C at the D asked over the budget; and attention's share of M."""
    flops: Any = count_forward_flops(cast(ModelConfig, model), limits.sequence_length)
    share = (flops.attention_projections + flops.attention_scores) / flops.non_embedding
    if limits.tokens is None:
        return TRAINING_PASSES * flops.non_embedding / PUBLISHED.moe_model(limits.compute), share
    return TRAINING_PASSES * flops.total * limits.tokens / limits.compute, share


def _costs(grid: SimpleNamespace, limits: Limits) -> dict[str, tuple[Column, Column]]:
    """Total parameters, and gigabytes of one rank, each as (at E = 0, slope by E)."""
    found: list[list[Column]] = []
    for num_experts in (0, 1):
        count: Any = count_parameters(cast(ModelConfig, _with(grid, num_experts=num_experts)))
        elsewhere = count.routed_experts * (1 - 1 / limits.expert_parallel)
        found.append([count.total, (count.total - elsewhere) * TRAINING_BYTES / GIGABYTE])
    total, rank = ((none, single - none) for none, single in zip(*found, strict=True))
    return {"max_total_params": total, "max_memory_gb": rank}


def _expert_bounds(grid: SimpleNamespace, limits: Limits) -> dict[str, Column]:
    """The largest E that each limit allows, per layout."""
    served_by = grid.num_active_experts + NUM_SHARED
    most = routed_experts(limits.smallest_activation_ratio, served_by, NUM_SHARED)
    bounds = {"min_activation_ratio": most}
    for name, (base, slope) in _costs(grid, limits).items():
        if getattr(limits, name) is not None:
            bounds[name] = (getattr(limits, name) - base) / slope
    return bounds


def _leverage(grid: SimpleNamespace, num_experts: Column, compute: float) -> Column:
    active = grid.num_active_experts + NUM_SHARED
    ratio = np.minimum(active / np.maximum(num_experts + NUM_SHARED, active), 1.0)
    granularity = 2 * grid.d_model / grid.d_expert
    point = {"activation_ratio": ratio, "granularity": granularity, "compute": compute}
    return cast(Column, efficiency_leverage(PUBLISHED.joint, **point))


def _better_end(grid: SimpleNamespace, fewest: Column, most: Column, compute: float) -> Column:
    """EL is monotonic in E: the most experts above the break-even compute, the fewest below."""
    grows = _leverage(grid, most, compute) >= _leverage(grid, fewest, compute)
    return np.where(grows, np.maximum(most, fewest), fewest).astype(np.int64)


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
    base, slope = _costs(grid, limits)[name]
    value = float(base[row] + experts * slope[row])
    unit = " parameters" if name == "max_total_params" else " GB a rank"
    return float(getattr(limits, name)), value, unit


def _require_reachable(smallest: Column, largest: Column, limits: Limits) -> None:
    """Some shape has the M or D called for; the columns are ratios to it at fewest and most E."""
    name = "compute" if limits.tokens is None else "tokens"
    low, high = _band(limits)
    ends = ((smallest.min(), "smallest", high), (1 / largest.max(), "largest", 1 / low))
    for factor, end, most in ends:
        rule = (
            f"cannot be met: the {end} shape searched is {factor:.3g} times off the size called for"
        )
        require(factor <= most, name, getattr(limits, name), rule)


def _require_feasible(grid: SimpleNamespace, fewest: Column, limits: Limits) -> None:
    """Each limit alone, then all together, leave some shape of the right size."""
    active = grid.num_active_experts + NUM_SHARED
    ratio = active / (fewest + NUM_SHARED)
    best = {"min_activation_ratio": f"the most that any shape reaches is {ratio.max():.4g}"}
    excess = {"min_activation_ratio": limits.smallest_activation_ratio / ratio}
    for name, (base, slope) in _costs(grid, limits).items():
        if getattr(limits, name) is not None:
            cost = base + fewest * slope
            best[name] = f"the least that any shape of this size needs is {cost.min():.4g}"
            with np.errstate(over="ignore"):
                excess[name] = cost / getattr(limits, name)
    values = {name: getattr(limits, name) or limits.smallest_activation_ratio for name in excess}
    for name, factor in excess.items():
        rule = f"cannot be met: {best[name]}, {factor.min():.3g} times off the limit"
        require(factor.min() <= 1, name, values[name], rule)
    together = np.max(list(excess.values()), axis=0).min()
    rule = f"cannot be met together: the nearest shape is {together:.3g} times off one of them"
    require(together <= 1, ", ".join(values), tuple(values.values()), rule)


def _require_near(size: Column, limits: Limits) -> None:
    """Among shapes within the limits one has, with its experts, the M or D called for."""
    low, high = _band(limits)
    factor = float(np.exp(np.abs(np.log(size)).min()))
    rule = f"cannot be met: within the other limits the nearest size is {factor:.3g} times off"
    name = "compute" if limits.tokens is None else "tokens"
    require(bool(((size >= low) & (size <= high)).any()), name, getattr(limits, name), rule)
