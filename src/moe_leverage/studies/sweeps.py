"""What a study is: sweeps over the paper's axes, as data, and the runs they derive to (Section 3).

A study is a few sweeps; a sweep is the product of some axes around a base point, thinned by
`where` and turned into runs by `derive`. Nothing here names a width, a rate or a number of steps.

    C    compute            training FLOPs
    A    activation_ratio   (E_a + E_s) / (E + E_s)
    G    granularity        2 d_model / d_expert
    S    shared_ratio       E_s / (E_a + E_s)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from moe_leverage import ledger
from moe_leverage.config import RunConfig
from moe_leverage.rules import require
from moe_leverage.stages import require_chain
from moe_leverage.studies.protocol import (
    POINT_FIELDS,
    PROTOCOL,
    Laws,
    Point,
    derive,
    feasible,
    require_axis,
    require_family,
)

# what the paper varies
EXPERTS = tuple({"activation_ratio": 3 / (count + 1)} for count in (2, 4, 8, 16, 32, 64, 128, 256))
DENSE = {"dense": True}
GRANULARITIES = (2, 4, 6, 8, 12, 16)  # Table 8; some want a wider model than a small budget has
SHARED_COUNTS = (0, 1, 4, 6, 8, 10)  # of 12 active experts; 256 routed ones (Table 9)
SHARED = tuple(
    {"shared_ratio": count / 12, "activation_ratio": 12 / (256 + count)} for count in SHARED_COUNTS
)
ATTENTION_SHARES = (0.2, 0.3, 0.4, 0.5)  # of M (Table 11)
SEEDS = (0, 1, 2)  # of every architecture on a ladder: one seed moves a loss as much as most axes
JOINT_POINTS = 24
JOINT_START = 7  # of the Halton sequence: the seed of the design
JOINT_RANGES = {"activation_ratio": (1 / 80, 1 / 2), "granularity": (2, 16)}
HALTON_BASES = (2, 3, 5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """All points on the product of `axes` around `base` that pass `where`.

    An axis is the name of a field of Point or of a run's config with its values, or any name with
    mappings of such fields. What changes nothing is a mistake, unless it is named in `ignored`: a
    value for mixtures at a dense point, or another one that derives to the same run.
    """

    name: str
    base: Point
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    where: Callable[[Point, RunConfig], bool] = feasible
    derive: Callable[[Point, Laws], RunConfig] = derive
    ignored: frozenset[str] = frozenset()  # names that some points may do without
    after: str = ""  # a sweep of the study before this one: each run begins from its seed's there
    repeat_best: tuple[int, ...] = ()  # seeds with which its best cell at a budget is repeated

    def __post_init__(self) -> None:
        for axis, values in self.axes.items():
            is_list = isinstance(values, Sequence) and not isinstance(values, str)
            require(is_list and len(values) > 0, axis, values, "an axis is a list of values")
            for value in values:
                named = value if isinstance(value, Mapping) else {axis: value}
                for name, part in named.items():
                    require_axis(name, part)

    def points(self) -> Iterator[Point]:
        """Every point of the product, in the order of the axes."""
        for _, point in self._changes():
            yield point

    def runs(
        self, laws: Laws, before: Sequence[tuple[Point, RunConfig]] = ()
    ) -> Iterator[tuple[Point, RunConfig]]:
        """The points that pass `where`, with their runs; ValueError where a change changes none.

        `before` are those of the sweep that this one goes on `after`.
        """
        seen: dict[RunConfig, Point] = {}
        for changes, point in self._changes():
            run = self.derive(point, laws)
            if not self.where(point, run):
                continue
            if self.after:
                run = self._begun(point, run, before)
            for name in sorted(set(changes) - self.ignored):
                if changes[name] != _value(self.base, name):
                    require_family(point, name, changes[name])
            if run in seen:
                self._require_other(seen[run], point)
            seen[run] = point
            yield point, run

    def _begun(
        self, point: Point, run: RunConfig, before: Sequence[tuple[Point, RunConfig]]
    ) -> RunConfig:
        """The run as a stage after all runs of its seed in `before`."""
        parents = tuple(parent for place, parent in before if place.seed == point.seed)
        rule = f"no run of the sweep {self.after} has it, from which {self.name} could begin"
        require(bool(parents), "seed", point.seed, rule)
        run = replace(run, parents=parents)
        require_chain(run)
        return run

    def _changes(self) -> Iterator[tuple[dict[str, Any], Point]]:
        """What each point has from its axes, and the point."""
        for values in itertools.product(*self.axes.values()):
            changes: dict[str, Any] = {}
            for axis, value in zip(self.axes, values, strict=True):
                changes |= value if isinstance(value, Mapping) else {axis: value}
            own = {name: value for name, value in changes.items() if name in POINT_FIELDS}
            settings = {name: value for name, value in changes.items() if name not in own}
            settings = {**self.base.settings, **settings}
            yield changes, replace(self.base, **own, settings=settings)

    def _require_other(self, first: Point, point: Point) -> None:
        """Raise a ValueError if two points derive to one run and no ignored name tells them."""
        names = [*POINT_FIELDS - {"settings"}, *{**first.settings, **point.settings}]
        apart = sorted(name for name in names if _value(first, name) != _value(point, name))
        require(bool(apart), "sweep", self.name, f"has the same point twice: {dict(self.axes)}")
        for name in apart:
            before, value = _value(first, name), _value(point, name)
            rule = f"derives to the same run as {before!r}; drop one, or name it in `ignored`"
            require(name in self.ignored, name, value, rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Sweeps that together answer one part of the paper."""

    name: str
    answers: str
    sweeps: tuple[Sweep, ...]
    needs: tuple[str, ...] = ()  # the laws, by their names among the adopted ones
    protocol: int = PROTOCOL  # its records say by which they were trained
    role: str = "variant"  # one of ledger.ROLES: which analyses read it
    varies: tuple[str, ...] = ()  # columns of the ledger's table that tell its variants apart

    def __post_init__(self) -> None:
        rule = f"must be one of {', '.join(ledger.ROLES)}"
        require(self.role in ledger.ROLES, f"{self.name}.role", self.role, rule)
        for place, sweep in enumerate(self.sweeps):
            earlier = [before.name for before in self.sweeps[:place]]
            rule = f"must be a sweep before {sweep.name}: {', '.join(earlier) or 'there is none'}"
            require(sweep.after in ("", *earlier), f"{self.name}.after", sweep.after, rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """One run that a study wants, with where it stands on the axes."""

    study: str
    sweep: str
    point: Point
    run: RunConfig
    protocol: int = PROTOCOL
    awaited_by: tuple[str, ...] = ()  # identities of the planned runs that begin from this one
    run_id: str = field(init=False)  # the identity of the run's config

    def __post_init__(self) -> None:
        object.__setattr__(self, "run_id", self.run.identity())


def _value(point: Point, name: str) -> Any:
    """What a point says of a field, its own or of its run."""
    return getattr(point, name) if name in POINT_FIELDS else point.settings.get(name)


def study(name: str, answers: str, *sweeps: Sweep, **more: Any) -> Study:
    """A study by its name, the question it answers and its sweeps."""
    return Study(name=name, answers=answers, sweeps=sweeps, **more)


def _halton(place: int, base: int) -> float:
    """The radical inverse of `place`: a number in [0, 1) that fills the interval evenly."""
    value, scale = 0.0, 1.0
    while place:
        scale /= base
        place, digit = divmod(place, base)
        value += scale * digit
    return value


def joint_points(low_flops: float, high_flops: float) -> list[dict[str, float]]:
    """The (A, G, C) of a joint study: log-uniform, by a Halton sequence from JOINT_START on."""
    ranges = JOINT_RANGES | {"budget_flops": (low_flops, high_flops)}
    chosen: list[dict[str, float]] = []
    for place in itertools.count(JOINT_START):
        if len(chosen) == JOINT_POINTS:
            return chosen
        found = {
            axis: low * (high / low) ** _halton(place, base)
            for (axis, (low, high)), base in zip(ranges.items(), HALTON_BASES, strict=True)
        }
        if 1.5 * found["granularity"] / found["activation_ratio"] <= 500:
            chosen.append(found)
    raise AssertionError
