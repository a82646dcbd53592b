"""What the calculator page needs, as plain JSON values: laws, their ranges, samples and presets.

Two sides of one form: what the paper prints, with the reach of its rounding, and what `data/fits`
has of our own runs, if anything, with bootstrap samples and the rule of `design.prediction` for how
far it answers. The page repeats the law (Equation 13) and the count of Appendix C in JavaScript;
every number it starts from is written here, so nothing is typed twice.

    A, G, C    activation ratio, granularity, training compute in FLOPs
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moe_leverage import paths
from moe_leverage.accounting import TRAINING_PASSES
from moe_leverage.analysis import identification
from moe_leverage.design.prediction import JOINT, REACH, closed_axes
from moe_leverage.theory import allocation
from moe_leverage.theory.law import Law
from moe_leverage.theory.laws import PUBLISHED
from moe_leverage.theory.rounding import half_units

NUM_SAMPLES = 135  # bootstrap samples of the measured law that the page carries
SAMPLE_DIGITS = 5  # significant, of their coefficients: EL to about 1e-4
POWER_LAWS = (
    "learning_rate",
    "batch_tokens",
    "moe_model",
    "moe_tokens",
    "dense_model",
    "dense_tokens",
)
FIT_NAMES = {"learning_rate": "moe_learning_rate", "batch_tokens": "moe_batch_tokens"}  # ours
EXAMPLES = (  # Section 4.2.2 and Figure 1; Section 4.1, the baseline architecture
    ("Section 4.2.2: EL > 7", {"C": 1e22, "A": 0.031, "G": 12}),
    ("The same at 1e20", {"C": 1e20, "A": 0.031, "G": 12}),
    ("Baseline, 2 of 64 and one shared", {"C": 1e20, "A": 3 / 65, "G": 2}),
)


def payload(fits: Path = paths.FITS) -> dict[str, Any]:
    """Everything the page is given; `measured` is None until a joint law is fitted.

    >>> sorted(payload())
    ['measured', 'passes', 'presets', 'published', 'readings', 'why']
    """
    laws = {name: getattr(PUBLISHED, name) for name in POWER_LAWS}
    return {
        "published": _side(PUBLISHED.joint, laws) | {"rounding": half_units()},
        "measured": _measured(fits),
        "presets": [{"name": name, "axes": axes} for name, axes in EXAMPLES],
        "passes": TRAINING_PASSES,
        "readings": dict(allocation.PASSES),
        "why": allocation.why(),
    }


def script(fits: Path = paths.FITS) -> str:
    """The payload as a script, which works from a file where fetching would not."""
    values = json.dumps(payload(fits), separators=(",", ":"), allow_nan=False)
    return f"window.moeLeverage = {{ data: {values} }};\n"


def _side(joint: Law, laws: Mapping[str, Law]) -> dict[str, Any]:
    return {
        "law": _coefficients(joint),
        "domain": _ranges(joint),
        "laws": {name: _coefficients(law) | {"domain": _ranges(law)} for name, law in laws.items()},
    }


def _coefficients(law: Law) -> dict[str, Any]:
    return dict(zip(law.coefficient_names, map(float, law.coefficients), strict=True))


def _ranges(law: Law) -> dict[str, list[float]]:
    return {name: [float(end) for end in ends] for name, ends in law.domain.items()}


def _measured(fits: Path) -> dict[str, Any] | None:
    """Our own side: the joint law with bootstrap samples, and each power law that is fitted.

    Each law has with it how far beyond its runs it answers, and along which axes not at all.
    """
    if not (fits / f"{JOINT}.json").is_file():
        return None
    from moe_leverage.analysis.fitted import Fit  # needed only where a fit exists

    joint = Fit.load(fits / f"{JOINT}.json")
    step = max(1, len(joint.samples) // NUM_SAMPLES)
    drawn = np.nan_to_num(joint.law.from_theta(joint.samples[::step][:NUM_SAMPLES]))  # no infinity
    rows = [[float(f"{value:.{SAMPLE_DIGITS}g}") for value in row] for row in drawn]
    files = {name: fits / f"{FIT_NAMES.get(name, name)}.json" for name in POWER_LAWS}
    laws = {name: Fit.load(path).law for name, path in files.items() if path.is_file()}
    side = _side(joint.law, laws) | _bounds(JOINT, joint.law, fits) | {"samples": rows}
    for name, law in laws.items():
        side["laws"][name] |= _bounds(files[name].stem, law, fits)
    return side


def _bounds(fit: str, law: Law, fits: Path) -> dict[str, Any]:
    shut = identification.failing_gates(fits).get(fit, ())
    return {"reach": REACH, "closed": list(closed_axes(fit, law, fits)), "failing": list(shut)}
