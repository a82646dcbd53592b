"""A fitted law: coefficients, resamples and what they say, and the file that keeps it.

    theta   coefficients as the fit sees them (module `law`)
    n, P    rows of the table, coefficients of the law

How a law is fitted is said in `fitting`, how resamples are drawn in `bootstrap`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from moe_leverage import paths
from moe_leverage.analysis.bootstrap import (
    LEVEL,
    Groups,
    central_interval,
    small_sample_factor,
    student_ratio,
)
from moe_leverage.analysis.optimise import Problem
from moe_leverage.rules import require
from moe_leverage.theory.law import Array, Inputs, Law, Source
from moe_leverage.theory.registry import find

FORMAT = 2  # of the files that `Fit.save` writes
SAMPLE_DIGITS = 6
EQUATIONS = {
    "learning_rate": "Eq. 3",
    "batch_tokens": "Eq. 3",
    "model": "Table 1",
    "tokens": "Table 1",
    "loss": "Section 3",
    "activation": "Eq. 10",
    "granularity": "Eq. 11",
    "compute": "Eq. 12",
    "joint": "Eq. 13",
    "chinchilla": "Hoffmann et al. (2022)",
}

Family = Literal["", "dense", "moe"]
Role = Literal["law", "section"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Convergence:
    """How the optimiser fared; `warnings` is empty when nothing is doubtful."""

    num_starts: int
    starts_converged: int
    starts_at_best: int
    num_resamples: int
    resamples_converged: int
    most_iterations: int

    @property
    def warnings(self) -> list[str]:
        """What a reader should know before trusting the fit."""
        found = []
        if self.starts_converged == 0:
            found.append("no start converged")
        if self.num_starts > 1 and self.starts_at_best == 1:
            found.append(f"only 1 of {self.num_starts} starts found the best")
        if self.resamples_converged < 0.99 * self.num_resamples:
            missing = self.num_resamples - self.resamples_converged
            found.append(f"{missing} of {self.num_resamples} resamples did not converge")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Values (m,) and the (m, 2) ends of two intervals: of the law, and of one new run."""

    value: Array
    confidence: Array
    prediction: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A fitted law with everything needed to judge it: what it is, data, bootstrap, convergence."""

    law: Law
    target: str
    kind: str = ""  # what it says of its runs: a key of EQUATIONS
    family: Family = ""  # whose runs are behind it; empty: those of both, or unknown
    role: Role = "law"  # a section is a cut through another law, at fixed values of the other axes
    inputs: Inputs
    log_target: Array  # (n,)
    clusters: Groups  # (n,) cluster number of each row
    theta: Array  # (P,)
    covariance: Array  # (P, P) of theta, robust to unequal noise and to clusters
    samples: Array  # (resamples, P) of theta
    delta: float
    convergence: Convergence

    @property
    def residuals(self) -> Array:
        """Ln target - ln law at every row."""
        return -self.problem.residuals(self.theta)

    @property
    def num_clusters(self) -> int:
        """How many independent units are behind it."""
        return int(self.clusters.max()) + 1

    @property
    def widening(self) -> float:
        """Factor on bootstrap deviations that makes up for few clusters."""
        clusters, size = self.num_clusters, len(self.theta)
        return small_sample_factor(clusters, size) * student_ratio(clusters - size)

    @property
    def problem(self) -> Problem:
        """What was minimised."""
        return Problem(
            law=type(self.law), inputs=self.inputs, log_target=self.log_target, delta=self.delta
        )

    def interval(self, level: float = LEVEL) -> dict[str, tuple[float, float]]:
        """Bootstrap percentile interval of each coefficient."""
        ends = central_interval(self.law.from_theta(self.samples), level).T
        names = self.law.coefficient_names
        return {name: (float(a), float(b)) for name, a, b in zip(names, *ends, strict=True)}

    def predict(
        self, inputs: Mapping[str, ArrayLike], *, level: float = LEVEL, seed: int = 0
    ) -> Prediction:
        """The law at new inputs with a confidence and a prediction interval.

        The first covers the law itself; the second one new run, whose noise is drawn from the
        residuals of the fit.
        """
        columns = {name: np.atleast_1d(np.asarray(inputs[name], float)) for name in self.law.inputs}
        columns = dict(zip(columns, np.broadcast_arrays(*columns.values()), strict=True))
        value = np.atleast_1d(self.law.evaluate(**columns))
        with np.errstate(over="ignore"):
            drawn = self.law.log_value(self.samples, columns)
            noise = small_sample_factor(len(self.log_target), len(self.theta)) * self.residuals
            noisy = drawn + np.random.default_rng(seed).choice(noise, drawn.shape)
            intervals = [np.exp(central_interval(part, level)) for part in (drawn, noisy)]
        return Prediction(value=value, confidence=intervals[0], prediction=intervals[1])

    def statistic_interval(self, name: str, level: float = LEVEL) -> tuple[float, float]:
        """Interval of a number that the law derives from its coefficients, such as its optimum.

        NaN, where a resample has no such number, counts as unbounded: an end that falls among
        them is infinite.
        """
        drawn = self.law.from_theta(self.samples)
        values = [getattr(type(self.law).from_coefficients(row), name) for row in drawn]
        ends = central_interval(np.nan_to_num(np.array(values), nan=np.inf)[:, None], level)[0]
        return float(ends[0]), float(ends[1])

    def save(self, path: Path) -> None:
        """Write the fit as JSON."""
        record = {
            "format": FORMAT,
            "law": type(self.law).__name__,
            "target": self.target,
            "kind": self.kind,
            "family": self.family,
            "role": self.role,
            "coefficients": dict(
                zip(self.law.coefficient_names, _rounded(self.law.coefficients), strict=True)
            ),
            "interval_90": {name: _rounded(ends) for name, ends in self.interval().items()},
            "source": asdict(self.law.source),
            "delta": self.delta,
            "convergence": asdict(self.convergence),
            "theta": self.theta.tolist(),
            "covariance": _rounded(self.covariance),
            "inputs": {name: column.tolist() for name, column in self.inputs.items()},
            "log_target": self.log_target.tolist(),
            "clusters": self.clusters.tolist(),
            "samples": _rounded(self.samples),
        }  # fmt: skip
        text = json.dumps(record, allow_nan=False, separators=(",", ":"))
        paths.write_atomically(path, text + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """The fit that `save` wrote; ValueError if the file is another thing."""
        try:
            record = json.loads(path.read_text())
            require(
                record["format"] == FORMAT,
                f"{path.name}: format",
                record["format"],
                f"must be {FORMAT}",
            )
            form = find(record["law"], f"{path.name}: law")
            theta = _numbers(record["theta"], 1)
            domain = {name: _numbers(ends, 1) for name, ends in record["source"]["domain"].items()}
            for name, ends in domain.items():
                is_range = len(ends) == 2 and 0 < ends[0] <= ends[1]
                require(is_range, f"{path.name}: domain {name}", ends.tolist(), "is no range")
            ranges = {name: tuple(ends.tolist()) for name, ends in domain.items()}
            source = record["source"] | {"domain": ranges}
            inputs = {name: _numbers(record["inputs"][name], 1) for name in form.inputs}
            log_target, samples = _numbers(record["log_target"], 1), _numbers(record["samples"], 2)
            clusters = _numbers(record["clusters"], 1).astype(int)
            lengths = {len(column) for column in (*inputs.values(), log_target, clusters)}
            is_whole = len(lengths) == 1 and samples.shape[1] == len(theta) and len(samples) > 0
            require(is_whole, f"{path.name}: lengths", sorted(lengths), "must agree")
            return cls(
                law=form.from_coefficients(form.from_theta(theta), Source(**source)),
                target=str(record["target"]),
                kind=record["kind"],
                family=record["family"],
                role=record["role"],
                inputs=inputs,
                log_target=log_target,
                clusters=clusters,
                theta=theta,
                covariance=_array(record["covariance"]),
                samples=samples,
                delta=float(_numbers(record["delta"], 0)),
                convergence=Convergence(**record["convergence"]),
            )
        except (KeyError, TypeError, AttributeError, OverflowError, json.JSONDecodeError) as error:
            raise ValueError(f"{path.name}: not a saved fit ({error!r})") from error


def described(fitted: Fit, kind: str, family: Family = "", note: str = "") -> Fit:
    """The fit with what it is, and its equation and note in the source of its law."""
    source: Source = replace(
        fitted.law.source, equation=EQUATIONS[kind], convention="exact", note=note
    )
    law = replace(fitted.law, source=source)  # type: ignore[type-var]
    return replace(fitted, law=law, kind=kind, family=family)


def _numbers(values: Any, axes: int) -> Array:
    """An array of finite numbers with so many axes; TypeError where a file holds another thing."""
    array = _array(values)
    if array.ndim != axes or not np.isfinite(array).all():
        raise TypeError(f"{len(np.shape(values))} axes or a number that is not finite")
    return array


def _array(values: Any) -> Array:
    """An array of numbers; TypeError where a file holds text or rows of unequal length."""
    try:
        return np.array(values, dtype=float)
    except ValueError as error:
        raise TypeError(str(error)) from None


def _rounded(values: ArrayLike) -> Any:
    """Nested lists of numbers with few digits; None where a number is not finite."""
    array = np.asarray(values, dtype=float)
    if array.ndim:
        return [_rounded(part) for part in array]
    return float(f"{array:.{SAMPLE_DIGITS}g}") if np.isfinite(array) else None
