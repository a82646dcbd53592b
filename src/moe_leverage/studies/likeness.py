"""What a large design looks like at a scale that a reader can train: a study of a file, written.

The likeness keeps A and what G whole experts allow: at 3e10 FLOPs a model is 32 wide, so that an
expert of G 16 is 4 wide and A 0.01 would take thousands of them.

    A, G, S  activation ratio, granularity, shared-expert ratio: one expert of 3 G / 2 is shared
"""

from __future__ import annotations

from collections.abc import Mapping

from moe_leverage.rules import require
from moe_leverage.studies.protocol import Point, adopted_laws, derive, feasible, laws_for

BUDGETS_FLOPS = (3e10, 1e11)
REACH_FLOPS = (3e11,)  # of the dense model alone, so that a better design has an EL
SEEDS = (0, 1, 2)
GRANULARITIES = (16.0, 12.0, 8.0, 6.0, 4.0, 2.0)
ACTIVE_EXPERTS = 1.5  # times G, the shared one included: a dense FFN is 3 d_model wide
RATES = "tuning"  # the search whose gates hold
AXES = ("activation_ratio", "granularity", "shared_ratio")


def likeness(activation_ratio: float, granularity: float) -> Point | None:
    """The point nearest to A and G, by the largest G not above it, whose runs whole experts allow.

    None where no G does: A is then too small for the most experts that a small model is given.

    >>> found = likeness(0.05, 16)
    >>> found.activation_ratio, found.granularity
    (0.05, 16.0)
    >>> likeness(0.001, 16) is None
    True
    """
    laws = laws_for("likeness", (RATES,), adopted_laws())
    for allowed in (granularity, *(g for g in GRANULARITIES if g < granularity)):
        point = Point(
            budget_flops=BUDGETS_FLOPS[0],
            activation_ratio=float(f"{activation_ratio:.2g}"),
            granularity=float(f"{allowed:.3g}"),
            shared_ratio=float(f"{1 / (ACTIVE_EXPERTS * allowed):.3g}"),
        )
        if feasible(point, derive(point, laws)):
            return point
    return None


def total_flops(designs: int) -> float:
    """What training this many designs takes, beside their dense model.

    >>> f"{total_flops(1):.3g}"
    '1.68e+12'
    """
    return len(SEEDS) * (sum(BUDGETS_FLOPS) * (designs + 1) + sum(REACH_FLOPS))


def axes(point: Point) -> dict[str, float]:
    """What a study file says of a point, in the paper's words."""
    return {name: getattr(point, name) for name in AXES}


def study(points: Mapping[str, Point | None]) -> str:
    """A study file of these designs against a dense model, as `moe-leverage study` reads it.

    Designs that are alike when small are one. Raises ValueError if none can be trained small.
    """
    from moe_leverage.studies.ladder import BASE  # pandas comes with it

    distinct: dict[str, str] = {}
    for name, point in points.items():
        if point is not None:
            said = "\n".join(f"{axis} = {value}" for axis, value in axes(point).items())
            distinct[said] = f"{distinct[said]}-and-{name}" if said in distinct else name
    rule = "has nothing to write: no design has a likeness that can be trained small"
    require(bool(distinct), "study", list(points), rule)
    lines = [
        'name = "designs"',
        'answers = "designs, as small as can be trained, against a dense model at equal compute"',
        'against = "dense"',
        f"budgets_flops = {list(BUDGETS_FLOPS)}",
        f"reach_flops = {list(REACH_FLOPS)}",
        f"seeds = {list(SEEDS)}",
        f'rates = "{RATES}"',
        "",
        "[base]",
        'corpus = "smoke"',
        f"balance_coefficient = {BASE.balance_coefficient}  # keeps small routers balanced",
        "",
        "[designs.dense]",
        "dense = true",
    ]
    for said, name in distinct.items():
        lines += ["", f"[designs.{name}]", said]
    return "\n".join(lines) + "\n"
