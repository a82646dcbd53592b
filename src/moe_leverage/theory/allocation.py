"""What the M of Table 1 holds: one forward pass, as Section 2.1 says, or all passes of training.

    M    non-embedding FLOPs of one token's forward pass
    D    training tokens
    C    training compute: three forward passes over D tokens (Appendix C)

Under the first reading a model of Table 1 costs 3 C to train on its own D, under the second C.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from moe_leverage.accounting import TRAINING_PASSES
from moe_leverage.theory.laws import PUBLISHED

PASSES = MappingProxyType({"as printed": 1, "three passes": TRAINING_PASSES})
USUAL_RATIO = 20  # tokens a parameter (Hoffmann et al. 2022)
PARAMETER_FLOPS = 2  # of one forward pass; attention scores add to it
PLACE, PLACE_TEXT = 1e20, "1e20"  # FLOPs at which the readings are told apart


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A budget's best model and data by Table 1 under one reading of its M."""

    flops_per_token: float  # of one forward pass
    num_tokens: float

    @property
    def training_flops(self) -> float:
        """What such a model takes: 3 M D."""
        return TRAINING_PASSES * self.flops_per_token * self.num_tokens


def split(compute: float, passes: int, *, is_dense: bool = False) -> Split:
    """M_opt and D_opt of Table 1 at C, its M read as so many passes.

    >>> [f"{split(1e20, passes).training_flops:.2g}" for passes in PASSES.values()]
    ['3e+20', '1e+20']
    """
    model = PUBLISHED.dense_model if is_dense else PUBLISHED.moe_model
    tokens = PUBLISHED.dense_tokens if is_dense else PUBLISHED.moe_tokens
    return Split(flops_per_token=model(compute) / passes, num_tokens=tokens(compute))


def tokens_per_parameter(passes: int, compute: float = PLACE) -> float:
    """D over M / 2 of the dense law: what its readings are told apart by.

    >>> [round(tokens_per_parameter(passes)) for passes in PASSES.values()]
    [10, 29]
    """
    best = split(compute, passes, is_dense=True)
    return best.num_tokens / (best.flops_per_token / PARAMETER_FLOPS)


def why() -> str:
    """Which reading the paper's own numbers hold with, and what follows.

    >>> why().endswith("divide M_opt by 3 before sizing a model with it.")
    True
    """
    one, three = (tokens_per_parameter(passes) for passes in PASSES.values())
    return (
        f"Table 1's dense law at {PLACE_TEXT} FLOPs gives {three:.0f} tokens per parameter if M is "
        f"three passes and {one:.0f} if it is one; {USUAL_RATIO} is the usual figure. So C = M D "
        "is training compute and the M of Table 1 includes the backward pass, although Section "
        f"2.1 defines a single forward pass: divide M_opt by {TRAINING_PASSES} before sizing a "
        "model with it."
    )
