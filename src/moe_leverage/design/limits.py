"""What a design must keep to, what its layouts cost, and the refusal of what none of them can meet.

C        compute, FLOPs; without a limit on tokens it fixes M, with one D
E        routed experts of a layer
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from moe_leverage.accounting import count_parameters
from moe_leverage.axes import quantity
from moe_leverage.config import PAPER_SEQUENCE_LENGTH, PAPER_VOCABULARY_SIZE, ModelConfig
from moe_leverage.design.designer import GIGABYTE, TRAINING_BYTES
from moe_leverage.design.layouts import NUM_SHARED, Column, changed
from moe_leverage.rules import require, require_count
from moe_leverage.theory.laws import PUBLISHED

LIMITED = ("compute", "tokens", "max_total_params", "max_memory_gb", "min_activation_ratio")
TOLERANCE = 1.05  # factor by which M or D may differ from what is asked


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
        for name, value in ((name, getattr(self, name)) for name in LIMITED):
            if value is not None:
                quantity(name, value)
        require_count("expert_parallel", self.expert_parallel, high=65_536)
        for name in ("vocab_size", "sequence_length"):
            require_count(name, getattr(self, name))
        weight = self.objective
        require(0 <= weight <= 1, "objective", weight, "must be from 0 (memory) to 1 (leverage)")

    @property
    def smallest_activation_ratio(self) -> float:
        """The limit on A, that of the law's runs where none is given."""
        if self.min_activation_ratio is not None:
            return self.min_activation_ratio
        return PUBLISHED.joint.domain["activation_ratio"][0]

    def hold(self, total_params: float, rank_gb: float) -> bool:
        """Whether so many parameters, and gigabytes of one rank, are within the limits."""
        most, memory = self.max_total_params, self.max_memory_gb
        return total_params <= (most or total_params) and rank_gb <= (memory or rank_gb)


def band(limits: Limits) -> tuple[float, float]:
    """What `_size` may be: within 5 % of Table 1's optimum; a token limit is never exceeded."""
    return (1 / TOLERANCE, TOLERANCE) if limits.tokens is None else (1.0, TOLERANCE)


def costs_of(grid: SimpleNamespace, limits: Limits) -> dict[str, tuple[Column, Column]]:
    """Total parameters, and gigabytes of one rank, each as (at E = 0, slope by E)."""
    found: list[list[Column]] = []
    for num_experts in (0, 1):
        count: Any = count_parameters(cast(ModelConfig, changed(grid, num_experts=num_experts)))
        elsewhere = count.routed_experts * (1 - 1 / limits.expert_parallel)
        found.append([count.total, (count.total - elsewhere) * TRAINING_BYTES / GIGABYTE])
    total, rank = ((none, single - none) for none, single in zip(*found, strict=True))
    return {"max_total_params": total, "max_memory_gb": rank}


def require_reachable(smallest: Column, largest: Column, limits: Limits) -> None:
    """Some shape has the M or D called for; the columns are ratios to it at fewest and most E."""
    name = "compute" if limits.tokens is None else "tokens"
    low, high = band(limits)
    ends = ((smallest.min(), "smallest", high), (1 / largest.max(), "largest", 1 / low))
    for factor, end, most in ends:
        rule = (
            f"cannot be met: the {end} shape searched is {factor:.3g} times off the size called for"
        )
        require(factor <= most, name, getattr(limits, name), rule)


def require_feasible(grid: SimpleNamespace, fewest: Column, limits: Limits) -> None:
    """Each limit alone, then all together, leave some shape of the right size."""
    active = grid.num_active_experts + NUM_SHARED
    ratio = active / (fewest + NUM_SHARED)
    best = {"min_activation_ratio": f"the most that any shape reaches is {ratio.max():.4g}"}
    excess = {"min_activation_ratio": limits.smallest_activation_ratio / ratio}
    for name, (base, slope) in costs_of(grid, limits).items():
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


def require_near(size: Column, limits: Limits) -> None:
    """Among shapes within the limits one has, with its experts, the M or D called for."""
    low, high = band(limits)
    factor = float(np.exp(np.abs(np.log(size)).min()))
    rule = f"cannot be met: within the other limits the nearest size is {factor:.3g} times off"
    name = "compute" if limits.tokens is None else "tokens"
    require(bool(((size >= low) & (size <= high)).any()), name, getattr(limits, name), rule)
