"""The paper's axes: what each may be, and the one way from them to whole experts (Section 2.1).

A    activation_ratio    (E_a + E_s) / (E + E_s)
G    granularity         2 d_model / d_expert
S    shared_ratio        E_s / (E_a + E_s)
"""

from __future__ import annotations

from typing import Any

from moe_leverage.rules import require, require_number

SMALLEST_RATIO = 1e-9  # A: one expert of a billion
GRANULARITIES = (1e-3, 1e6)  # G, from experts of 2000 times the model's width on
QUANTITIES = {  # what a law is asked at, and what a design keeps to: from and to
    "activation_ratio": (SMALLEST_RATIO, 1.0),
    "min_activation_ratio": (SMALLEST_RATIO, 1.0),
    "granularity": GRANULARITIES,
    "compute": (1.0, 1e40),  # FLOPs
    "tokens": (1.0, 1e30),
    "training_tokens": (1.0, 1e30),
    "max_total_params": (1.0, 1e18),
    "max_memory_gb": (1e-6, 1e12),
}


def quantity(name: str, value: float) -> float:
    """The value of one of QUANTITIES as a float; ValueError outside its bounds.

    >>> quantity("compute", 10**400)
    Traceback (most recent call last):
    ValueError: compute = a number of 401 digits: must be a number from 1 to 1e+40
    """
    require_number(name, value, *QUANTITIES[name])
    return float(value)


def whole_experts(
    *,
    activation_ratio: float,
    granularity: float,
    shared_ratio: float = 1 / 3,
    d_model: int,
    active_ffn_ratio: float = 3.0,
    multiple: int = 1,
) -> dict[str, Any]:
    """The experts nearest to (A, G, S) whose active FFN width is `active_ffn_ratio` d_model.

    d_expert = 2 d_model / G, a multiple of `multiple`; E_a + E_s = active_ffn_ratio d_model /
    d_expert; E_s = S (E_a + E_s); E by `routed_experts`; each rounded to a whole number. The
    defaults keep the paper's baseline (2 + 1 active experts of width d_model) at every G, as Table
    8 does.

    >>> whole_experts(activation_ratio=3 / 65, granularity=8, d_model=64)
    {'num_experts': 256, 'num_active_experts': 8, 'num_shared_experts': 4, 'd_expert': 16}
    """
    quantity("activation_ratio", activation_ratio)
    quantity("granularity", granularity)
    require_number("shared_ratio", shared_ratio, 0, 1)
    require(shared_ratio < 1, "shared_ratio", shared_ratio, "must be from 0 to below 1")
    require_number("active_ffn_ratio", active_ffn_ratio, 0, 1e6, above=True)
    d_expert = multiple * max(1, round(2 * d_model / granularity / multiple))
    served_by = max(1, round(active_ffn_ratio * d_model / d_expert))
    shared = round(shared_ratio * served_by)
    return {
        "num_experts": round(routed_experts(activation_ratio, served_by, shared)),
        "num_active_experts": served_by - shared,
        "num_shared_experts": shared,
        "d_expert": d_expert,
    }


def routed_experts(activation_ratio: Any, served_by: Any, shared: Any) -> Any:
    """E = (E_a + E_s) / A - E_s (Section 2.1), not rounded; `served_by` is E_a + E_s.

    >>> round(routed_experts(3 / 65, 3, 1))
    64
    """
    return served_by / activation_ratio - shared
