"""EL at a point by the published law and by our own, side by side; neither lends the other a value.

    A, G, C    activation ratio, granularity, training compute in FLOPs
    EL         efficiency leverage; 1 at A = 1 by definition (`theory.leverage`), in both laws

The published law answers everywhere. Outside the range of its runs the answer is marked as an
extrapolation; beside it stands what the rounding of Table 2 leaves open, for the paper prints no
interval.

The measured law, Equation 13 fitted to our own runs, answers inside the range of those runs, and
beyond it

- at most `REACH` times on each axis, A, G and C alike: one power of ten; and
- only along an axis whose coefficients the runs identify, if only on one side (`CARRIED_BY`). Among
  the runs, coefficients that trade off against one another agree on EL; beyond, nothing holds them.

Elsewhere it says that it has nothing to say "at this scale", and why. While a gate of the studies
behind it fails (`analysis.gates`) it says nothing anywhere: "not decided", and which gates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from moe_leverage import paths
from moe_leverage.analysis import identification
from moe_leverage.analysis.identification import NOT_IDENTIFIED, verdicts
from moe_leverage.axes import quantity
from moe_leverage.theory.law import UNITS, Law
from moe_leverage.theory.laws import PUBLISHED
from moe_leverage.theory.leverage import efficiency_leverage
from moe_leverage.theory.rounding import rounding_range

if TYPE_CHECKING:
    from moe_leverage.analysis.fitted import Fit

JOINT = "joint"  # name of the fit of Equation 13 to our own runs
REACH = 10.0  # times beyond the range of its runs, on any axis, up to which a measured law answers
CARRIED_BY = MappingProxyType({  # the coefficients by which a law goes on beyond its runs
    "activation_ratio": ("a_start", "a_max"),
    "granularity": ("gamma", "beta"),
    "compute": ("d", "exponent"),
})  # fmt: skip
NOT_HERE = "not at this scale"
NOT_DECIDED = "not decided"
NO_FIT = "no joint law is fitted to our own runs yet"
BY_DEFINITION = "EL = 1 by definition: with A = 1 the model is its own dense equal"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedLeverage:
    """EL by the coefficients of Table 2, and the reach of their rounding."""

    value: float
    in_domain: bool
    rounding_range: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredLeverage:
    """EL by the law fitted to our own runs; without a value the reason says why there is none."""

    value: float | None
    interval: tuple[float, float] | None
    in_domain: bool
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """EL at one point by both laws, and how far each is to be trusted."""

    activation_ratio: float
    granularity: float
    compute: float
    published: PublishedLeverage
    measured: MeasuredLeverage
    warnings: tuple[str, ...]


def predict(
    *, activation_ratio: float, granularity: float, compute: float, fits: Path = paths.FITS
) -> Prediction:
    """EL of Equation 13 as printed and as fitted to our own runs, with warnings of extrapolation.

    Arrays go to `efficiency_leverage`. ValueError outside `axes.QUANTITIES`.

    >>> found = predict(activation_ratio=0.031, granularity=12, compute=1e20)
    >>> round(found.published.value, 2), found.published.in_domain, found.measured.value
    (4.55, True, None)
    >>> predict(activation_ratio=1, granularity=12, compute=1e20).measured.value
    1.0
    """
    asked = {
        "activation_ratio": activation_ratio, "granularity": granularity, "compute": compute,
    }  # fmt: skip
    point = {name: quantity(name, value) for name, value in asked.items()}
    value = efficiency_leverage(PUBLISHED.joint, **point)
    if point["activation_ratio"] == 1:
        return _dense(point)
    outside = PUBLISHED.joint.outside(**point)
    warnings = [f"published law: {line}" for line in outside]
    if value < 1:
        rule = f"efficiency_leverage = {value:.3g}: a dense model is predicted cheaper"
        warnings.append(f"published law: {rule}")
    measured, beyond = _measured(point, fits)
    return Prediction(
        **point,
        published=PublishedLeverage(
            value=value,
            in_domain=not outside,
            rounding_range=rounding_range(lambda law: efficiency_leverage(law, **point)),
        ),
        measured=measured,
        warnings=(*warnings, *(f"measured law: {line}" for line in beyond)),
    )


def closed_axes(name: str, law: Law, fits: Path = paths.FITS) -> tuple[str, ...]:
    """The inputs along which the fit of this name may not leave the range of its runs.

    >>> from moe_leverage.theory.laws import PUBLISHED
    >>> closed_axes("moe_tokens", PUBLISHED.moe_tokens)
    ()
    """
    said = verdicts(fits)
    open_ended = {c for c in law.coefficient_names if said.get((name, c)) == NOT_IDENTIFIED}
    return tuple(axis for axis in law.inputs if open_ended.intersection(CARRIED_BY[axis]))


def silence(
    point: Mapping[str, float], domain: Mapping[str, tuple[float, float]], closed: Iterable[str]
) -> str:
    """Why a law fitted to runs of this domain says nothing at a point; empty where it answers.

    >>> silence({"compute": 1e14}, {"compute": (1e11, 1e12)}, ())  # doctest: +ELLIPSIS
    'not at this scale: compute = 1e+14 FLOPs is 100 times beyond the range 1e+11 to 1e+12 of...'
    """
    for name, value in point.items():
        low, high = domain[name]
        factor = max(low / value, value / high)
        place = (
            f"{NOT_HERE}: {name} = {value:.4g}{UNITS.get(name, '')} is {factor:.3g} times beyond "
            f"the range {low:.4g} to {high:.4g} of our runs"
        )
        if factor > REACH:
            return f"{place}, and a measured law answers up to {REACH:g} times beyond"
        if factor > 1 and name in closed:
            return f"{place}, which do not identify how EL goes on along this axis"
    return ""


def undecided(gates: Iterable[str]) -> str:
    """Why a law whose runs do not hold their gates says nothing.

    >>> undecided(["tuned", "balanced"])
    'not decided: of the gates of its runs fail: tuned, balanced'
    """
    return f"{NOT_DECIDED}: of the gates of its runs fail: {', '.join(gates)}"


def _dense(point: Mapping[str, float]) -> Prediction:
    """A = 1: no law is asked, so nothing is uncertain and nothing extrapolated."""
    return Prediction(
        **point,
        published=PublishedLeverage(value=1.0, in_domain=True, rounding_range=(1.0, 1.0)),
        measured=MeasuredLeverage(
            value=1.0, interval=None, in_domain=True, reason=BY_DEFINITION
        ),
        warnings=(),
    )  # fmt: skip


def _measured(point: Mapping[str, float], fits: Path) -> tuple[MeasuredLeverage, list[str]]:
    """Our own law at a point below A = 1, and where it extrapolates."""
    path = fits / f"{JOINT}.json"
    if not path.is_file():
        return _unsaid(NO_FIT), []
    fit, closed, shut = _load(path)
    if reason := silence(point, fit.law.domain, closed):
        return _unsaid(reason), []
    if shut:
        return _unsaid(undecided(shut)), []
    found = fit.predict(point)
    low, high = (float(end) for end in found.confidence[0])
    if not (math.isfinite(low) and math.isfinite(high)):
        return _unsaid(f"{NOT_HERE}: our runs leave the interval of EL unbounded here"), []
    outside = fit.law.outside(**point)
    value = float(found.value[0])
    return (
        MeasuredLeverage(value=value, interval=(low, high), in_domain=not outside, reason=""),
        outside,
    )


def _unsaid(reason: str) -> MeasuredLeverage:
    return MeasuredLeverage(value=None, interval=None, in_domain=False, reason=reason)


@cache
def _load(path: Path) -> tuple[Fit, tuple[str, ...], tuple[str, ...]]:
    """The joint fit, its closed axes and the gates that keep it from answering."""
    from moe_leverage.analysis.fitted import Fit

    fit = Fit.load(path)
    shut = identification.failing_gates(path.parent).get(JOINT, ())
    return fit, closed_axes(JOINT, fit.law, path.parent), shut
