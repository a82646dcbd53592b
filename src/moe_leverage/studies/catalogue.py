"""The studies as data on the paper's axes: what is trained and what it answers (Section 3).

A study is a few sweeps; a sweep is the product of some axes around a base point, thinned by
`where` and turned into runs by `derive`. Nothing here names a width, a rate or a number of steps.

    C    compute            training FLOPs
    A    activation_ratio   (E_a + E_s) / (E + E_s)
    G    granularity        2 d_model / d_expert
    S    shared_ratio       E_s / (E_a + E_s)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from moe_leverage import ledger
from moe_leverage.config import RunConfig, require
from moe_leverage.studies.protocol import (
    BUDGETS,
    POINT_FIELDS,
    Laws,
    Point,
    adopted_laws,
    derive,
    derive_on_smoke,
    derive_partner,
    feasible,
    has_few_experts,
    laws_for,
    require_axis,
    require_family,
)

FRONTIER_ENDS = (3e10, 1e13)  # training FLOPs
FRONTIER_REACH = 3e13  # one dense run: the upper end of an interval may need it, no value does
LEARNING_RATES = tuple(2.0**-power for power in (11, 10, 9, 8, 7))
BATCHES = (256, 512, 1024, 2048)  # tokens
JOINT_POINTS = 24
JOINT_START = 7  # of the Halton sequence: the seed of the design
JOINT_RANGES = {"activation_ratio": (1 / 80, 1 / 2), "granularity": (2, 16)}
JOINT_BUDGETS = (1e11, 1e12)
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

    def runs(self, laws: Laws) -> Iterator[tuple[Point, RunConfig]]:
        """The points that pass `where`, with their runs; ValueError where a change changes none."""
        seen: dict[RunConfig, Point] = {}
        for changes, point in self._changes():
            run = self.derive(point, laws)
            if not self.where(point, run):
                continue
            for name in sorted(set(changes) - self.ignored):
                if changes[name] != _value(self.base, name):
                    require_family(point, name, changes[name])
            if run in seen:
                self._require_other(seen[run], point)
            seen[run] = point
            yield point, run

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
    needs: tuple[str, ...] = ("hyperparameters", "allocation")
    repeat_best: tuple[int, ...] = ()  # seeds with which the best cell of each budget is repeated
    protocol: int = 1  # of the ladder it belongs to; its records say so
    role: str = "variant"  # one of ledger.ROLES: which analyses read it
    varies: tuple[str, ...] = ()  # columns of the ledger's table that tell its variants apart

    def __post_init__(self) -> None:
        rule = f"must be one of {', '.join(ledger.ROLES)}"
        require(self.role in ledger.ROLES, f"{self.name}.role", self.role, rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """One run that a study wants, with where it stands on the axes."""

    study: str
    sweep: str
    point: Point
    run: RunConfig
    protocol: int = 1

    @property
    def run_id(self) -> str:
        """The identity of the run's config."""
        return self.run.identity()


def _value(point: Point, name: str) -> Any:
    """What a point says of a field, its own or of its run."""
    return getattr(point, name) if name in POINT_FIELDS else point.settings.get(name)


BASE = Point(budget_flops=BUDGETS[0])
LADDER = BUDGETS[:3]  # walked whole; the last budget, three times dearer, at a few places
SEEDS = (0, 1, 2)  # of every architecture on the ladder: one seed moves a loss as much as most axes
HPARAMS_BASE = replace(BASE, activation_ratio=5 / 65, shared_ratio=1 / 5, active_ffn_ratio=5.0)
HPARAMS_BUDGETS = tuple(  # with the sizes of the starting law, three layers at least
    {"budget_flops": budget, "size": size} for budget, size in zip(LADDER, (4, 4, 6), strict=True)
)
SHARED_BASE = replace(BASE, granularity=8.0, active_ffn_ratio=3.0, activation_ratio=12 / 260)
NANO_BETA = replace(
    BASE,
    budget_flops=BUDGETS[-1],
    activation_ratio=13 / 385,
    granularity=12.0,
    shared_ratio=1 / 13,
    active_ffn_ratio=13 / 6,
    size=5,  # 48 wide: the smallest at which experts of G = 12 can be multiplied
)
REPLAY = replace(BASE, budget_flops=5e10, size=4, learning_rate=2.0**-9, batch_tokens=512)
EXPERTS = tuple({"activation_ratio": 3 / (count + 1)} for count in (2, 4, 8, 16, 32, 64, 128, 256))
DENSE = {"dense": True}
GRANULARITIES = (2, 4, 6, 8, 12, 16)  # Table 8; some want a wider model than a small budget has
SHARED_COUNTS = (0, 1, 4, 6, 8, 10)  # of 12 active experts; 256 routed ones (Table 9)


def _study(name: str, answers: str, *sweeps: Sweep, **more: Any) -> Study:
    return Study(name=name, answers=answers, sweeps=sweeps, **more)


def _both_families(**axes: Sequence[Any]) -> Iterator[Sweep]:
    """The same grid for the dense and the mixture of the first studies."""
    for name in ("dense", "moe"):
        yield Sweep(name=name, base=replace(HPARAMS_BASE, dense=name == "dense"), axes=axes)


def _second_ladder(budget: float, **axes: Sequence[Any]) -> Iterator[Sweep]:
    """A grid at one budget of the second ladder, for the dense model and for the baseline."""
    for family in ("dense", "moe"):
        yield Sweep(
            name=f"{family}-{budget:.0e}",
            base=replace(SECOND_BASE, dense=family == "dense", budget_flops=budget),
            axes=axes,
        )


def _halton(place: int, base: int) -> float:
    """The radical inverse of `place`: a number in [0, 1) that fills the interval evenly."""
    value, scale = 0.0, 1.0
    while place:
        scale /= base
        place, digit = divmod(place, base)
        value += scale * digit
    return value


def joint_points() -> list[dict[str, float]]:
    """The (A, G, C) of the joint study: log-uniform, by a Halton sequence from JOINT_START on."""
    ranges = JOINT_RANGES | {"budget_flops": JOINT_BUDGETS}
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


# The second ladder's pilots: bodies, batches and rates by hand, since their laws come after them.
# All validation tokens are scored at every budget: one yardstick for losses of all budgets.
PILOT_BASE = replace(BASE, settings={"validation_tokens": 1_000_000})
PILOT_BUDGETS = (
    {"budget_flops": 1e12, "size": 3, "batch_tokens": 2048, "learning_rate": 0.0055},
    {"budget_flops": 1e13, "size": 5, "batch_tokens": 4096, "learning_rate": 0.0055},
)
BIAS_BALANCING = {"balance_coefficient": 0.0, "z_coefficient": 0.0, "bias_update_rate": 1e-3}
ROUTING_RECIPES = (
    *({"balance_coefficient": coefficient} for coefficient in (0.01, 0.03, 0.1, 0.3)),
    {"bias_routing": True},
    {"renormalise": True, **BIAS_BALANCING},
)
PILOT_DESIGNS = (  # E 64 and 256 at G = 2, and 256 experts of a quarter of the width at G = 8
    {"activation_ratio": 3 / 65},
    {"activation_ratio": 3 / 257},
    {"activation_ratio": 3 / 65, "granularity": 8.0},
)
NOISE_BASE = replace(PILOT_BASE, balance_coefficient=0.1)
NOISE_DESIGNS = ({"dense": True}, *PILOT_DESIGNS[:2])
NOISE_RECIPES: tuple[
    dict[str, Any], ...
] = (  # one change each of the paper's recipe, which is the first
    {},
    {"learning_rate_factor": 0.5},
    {"warmup_fraction": 0.05},
    {"decay": "linear", "final_rate_fraction": 0.01},
    {"merge_checkpoints": 8, "merge_interval": 20},
    {"adam_beta2": 0.99},
    {"qk_norm": "head"},
)
NOISE_SEEDS = (0, 1, 2, 3, 4, 5)

# The second ladder keeps the paper's recipe but for the coefficient of the balance loss: 0.1 is the
# least at which the pilot's routers stay balanced with 256 experts. Of what the noise pilot tried
# nothing brings the spread between seeds down, so nothing else is changed.
SECOND_BASE = NOISE_BASE
TUNING_GRIDS = (  # training FLOPs, body, powers of two of the rate and of the batch in tokens
    (3e11, 3, range(-9, -4), range(9, 13)),
    (1e12, 3, range(-9, -4), range(10, 14)),
    (3e12, 5, range(-9, -4), range(10, 14)),
    (1e13, 5, range(-9, -5), range(11, 15)),
)
ISOFLOP_SIZES = (  # training FLOPs, bodies; an odd one or two on either side of the trials' best
    (3e11, range(1, 7)),
    (1e12, range(1, 7)),
    (3e12, range(2, 8)),
    (1e13, range(3, 9)),
    (3e13, range(6, 9)),
)

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        _study(
            "hparams",
            "Eq. 3, Fig. 2",
            *_both_families(
                budget=HPARAMS_BUDGETS, learning_rate=LEARNING_RATES, batch_tokens=BATCHES
            ),
            needs=(),
            repeat_best=(1, 2),
            role="first search",
        ),
        _study(
            "allocation",
            "Eq. 4, Table 1, Fig. 4",
            *(
                Sweep(
                    name=f"{name}-{low}",
                    base=replace(HPARAMS_BASE, dense=name == "dense"),
                    axes={"budget_flops": (budget,), "size": tuple(range(8 + low))},
                )
                for name in ("dense", "moe")
                for low, budget in enumerate(BUDGETS[1:])
            ),
            needs=("first_hyperparameters",),
            role="sizes",
        ),
        _study(
            "hparams-second",  # the sizes of the first were two to four times too large
            "Eq. 3, Fig. 2 at the measured sizes",
            *_both_families(
                budget_flops=LADDER, learning_rate=LEARNING_RATES[2:], batch_tokens=BATCHES[:3]
            ),
            needs=("allocation",),
            role="search",
        ),
        _study(
            "activation",
            "Eq. 7, Eq. 10, Fig. 5, 8a",
            Sweep(
                name="ladder",
                base=BASE,
                axes={"budget_flops": LADDER, "experts": (*EXPERTS, DENSE), "seed": SEEDS},
            ),
            Sweep(
                name="reach",
                base=replace(BASE, budget_flops=BUDGETS[-1]),
                axes={"experts": (EXPERTS[2], EXPERTS[5], EXPERTS[7], DENSE), "seed": SEEDS},
            ),
            Sweep(
                name="dense-frontier",  # beyond both ends: a loss outside it has no leverage
                base=replace(BASE, dense=True),
                axes={"budget_flops": FRONTIER_ENDS, "seed": SEEDS},
            ),
            Sweep(name="dense-reach", base=replace(BASE, dense=True, budget_flops=FRONTIER_REACH)),
            role="plain",
        ),
        _study(
            "granularity",
            "Eq. 8, Eq. 11, Fig. 6, 8b",
            Sweep(
                name="ladder",
                base=BASE,
                axes={"budget_flops": LADDER, "granularity": GRANULARITIES, "seed": SEEDS},
            ),
            Sweep(
                name="reach",
                base=replace(BASE, budget_flops=BUDGETS[-1]),
                axes={"granularity": (2, 8), "seed": SEEDS},
            ),
            role="plain",
        ),
        _study(
            "joint",
            "does the separable law predict interactions? held out from every fit",
            Sweep(
                name="halton",
                base=BASE,
                axes={"design": joint_points()},
                where=has_few_experts,
            ),
            role="held out",
        ),
        _study(
            "shared",
            "Eq. 9, Fig. 7",
            Sweep(
                name="ladder",
                base=SHARED_BASE,
                axes={
                    "budget_flops": LADDER,
                    "experts": tuple(
                        {"shared_ratio": count / 12, "activation_ratio": 12 / (256 + count)}
                        for count in SHARED_COUNTS
                    ),
                    "seed": SEEDS,
                },
            ),
            role="variant",
        ),
        _study(
            "nano-beta",
            "Section 5, Tables 3 and 4, Fig. 10",
            Sweep(name="moe", base=NANO_BETA, axes={"seed": (0, 1, 2)}),
            Sweep(name="dense", base=NANO_BETA, axes={"seed": (0, 1, 2)}, derive=derive_partner),
            needs=("hyperparameters", "allocation", "leverage"),
            role="check",
        ),
        _study(
            "balance",
            "Fig. 12",
            Sweep(
                name="ladder",
                base=replace(BASE, balance_coefficient=0.001),
                axes={"budget_flops": LADDER, "granularity": GRANULARITIES, "seed": SEEDS},
            ),
            role="variant",
            varies=("routing.balance_coefficient",),
        ),
        _study(
            "dense-first",
            "Fig. 13ab",
            Sweep(
                name="ladder",
                base=BASE,
                axes={"budget_flops": LADDER, "num_dense_layers": (0, 1), "seed": SEEDS},
            ),
            role="variant",
            varies=("num_dense_layers",),
        ),
        _study(
            "attention",
            "Fig. 13cd",
            Sweep(
                name="ladder",
                base=BASE,
                axes={
                    "budget_flops": LADDER,
                    "attention_share": (0.2, 0.3, 0.4, 0.5),
                    "seed": SEEDS,
                },
            ),
            role="variant",
            varies=("attention_share",),
        ),
        _study(
            "bias-routing",
            "balance without an auxiliary loss, as in Ling 2.0 (arXiv 2510.22115)",
            Sweep(
                name="ladder",
                base=BASE,
                axes={
                    "budget_flops": BUDGETS[1:3],
                    "experts": (EXPERTS[4], EXPERTS[6]),
                    "bias_routing": (False, True),
                    "seed": SEEDS,
                },
            ),
            role="variant",
            varies=("routing.score",),
        ),
        _study(
            "hparams-check",
            "Fig. 3",
            *(
                Sweep(
                    name=f"active-{active}",
                    base=replace(
                        BASE,
                        budget_flops=LADDER[1],
                        activation_ratio=(active + 1) / 65,
                        shared_ratio=1 / (active + 1),
                        active_ffn_ratio=active + 1.0,
                    ),
                    axes={
                        "cross": (
                            {},
                            {"learning_rate_factor": 0.5},
                            {"learning_rate_factor": 2.0},
                            {"batch_factor": 0.5},
                            {"batch_factor": 2.0},
                        )
                    },
                )
                for active in (2, 4, 6)
            ),
            role="check",
        ),
        _study(
            "routing-pilot",
            "which routing recipe balances the experts at the lowest loss",
            Sweep(
                name="recipes",
                base=PILOT_BASE,
                axes={
                    "budget": PILOT_BUDGETS,
                    "design": PILOT_DESIGNS,
                    "recipe": ROUTING_RECIPES,
                    "seed": (0, 1),
                },
            ),
            needs=(),
            protocol=2,
            role="pilot",
        ),
        _study(
            "noise-pilot",
            "where the spread between seeds comes from, and which recipe brings it down",
            Sweep(
                name="recipes",
                base=NOISE_BASE,
                axes={
                    "budget": PILOT_BUDGETS[:1],
                    "design": NOISE_DESIGNS,
                    "recipe": NOISE_RECIPES,
                    "seed": NOISE_SEEDS,
                },
            ),
            Sweep(
                name="weights",  # the same text in the same order
                base=NOISE_BASE,
                axes={
                    "budget": PILOT_BUDGETS[:1],
                    "design": NOISE_DESIGNS,
                    "order_seed": (0,),
                    "seed": NOISE_SEEDS,
                },
            ),
            Sweep(
                name="order",  # the same weights at the start
                base=NOISE_BASE,
                axes={
                    "budget": PILOT_BUDGETS[:1],
                    "design": NOISE_DESIGNS,
                    "order_seed": NOISE_SEEDS[1:],
                },
            ),
            Sweep(
                name="reach",
                base=NOISE_BASE,
                axes={
                    "budget": PILOT_BUDGETS[1:],
                    "design": NOISE_DESIGNS,
                    "recipe": tuple(NOISE_RECIPES[place] for place in (0, 1, 3, 6)),
                    "seed": NOISE_SEEDS[:3],
                },
            ),
            needs=(),
            protocol=2,
            role="pilot",
        ),
        _study(
            "tuning",
            "Eq. 3, Fig. 2, on the second ladder",
            *(
                sweep
                for budget, size, rates, batches in TUNING_GRIDS
                for sweep in _second_ladder(
                    budget,
                    size=(size,),
                    learning_rate=tuple(2.0**power for power in rates),
                    batch_tokens=tuple(2**power for power in batches),
                )
            ),
            needs=(),
            repeat_best=(1, 2),
            protocol=2,
            role="search",
        ),
        _study(
            "isoflop",
            "Eq. 4, Table 1, Fig. 4, on the second ladder",
            *(
                sweep
                for budget, sizes in ISOFLOP_SIZES
                for sweep in _second_ladder(budget, size=tuple(sizes))
            ),
            needs=("tuning",),
            repeat_best=(1, 2),
            protocol=2,
            role="sizes",
        ),
        _study(
            "replay",
            "does a run trained again from its config reach its recorded loss? on the small corpus",
            Sweep(
                name="recipes",
                base=REPLAY,
                axes={
                    "recipe": (
                        DENSE,
                        {},
                        {"granularity": 4.0},
                        {"bias_routing": True},
                        {"renormalise": False},
                        {"num_dense_layers": 1},
                    )
                },
                derive=derive_on_smoke,
            ),
            needs=(),
            role="check",
        ),
        _study("pilot", "choices of the first protocol, by hand", role="pilot", needs=()),
    )
}


OURS = frozenset(STUDIES)


def get(name: str) -> Study:
    """The study of this name; ValueError lists the names there are."""
    require(name in STUDIES, "study", name, f"must be one of {', '.join(STUDIES)}")
    return STUDIES[name]


def register(study: Study) -> None:
    """Let a study that stands in no catalogue be planned by its name, as long as this process."""
    require(study.name not in OURS, "name", study.name, "is a study of this project")
    STUDIES[study.name] = study


def plan(
    name: str, laws: Laws | None = None, losses: Mapping[str, float] | None = None
) -> list[Planned]:
    """The runs of a study, each once, cheapest budget first.

    `losses` are those of recorded runs, by identity, NaN where a run diverged: a study that repeats
    its best cells plans the repetitions once all the cells of their budget are among them.
    """
    study = get(name)
    found: dict[str, Planned] = {}
    for cell in cells(study, laws):
        found.setdefault(cell.run_id, cell)
    for repeat in _repetitions(study, list(found.values()), losses or {}):
        found.setdefault(repeat.run_id, repeat)
    return sorted(found.values(), key=lambda task: (task.point.budget_flops, task.point.seed))


def cells(study: Study, laws: Laws | None = None) -> Iterator[Planned]:
    """Every run of every sweep of a study, one that two sweeps share twice."""
    laws = laws_for(study.name, study.needs, adopted_laws() if laws is None else laws)
    for sweep in study.sweeps:
        for point, run in sweep.runs(laws):
            yield Planned(
                study=study.name, sweep=sweep.name, point=point, run=run, protocol=study.protocol
            )


def _repetitions(
    study: Study, planned: list[Planned], losses: Mapping[str, float]
) -> Iterator[Planned]:
    """The best cell of each complete grid, with the further seeds of `repeat_best`."""
    grids: dict[tuple[str, float], list[Planned]] = {}
    for cell in planned:
        grids.setdefault((cell.sweep, cell.point.budget_flops), []).append(cell)
    for grid in grids.values():
        finite = [task for task in grid if math.isfinite(losses.get(task.run_id, math.nan))]
        if finite and all(task.run_id in losses for task in grid):
            best = min(finite, key=lambda task: losses[task.run_id])
            for seed in study.repeat_best:
                point = replace(best.point, seed=seed)
                yield replace(best, point=point, run=best.run.with_seed(seed))
