"""One rule from the paper's axes, a budget and a seed to a complete run (Sections 2.2, 2.3, 3.1).

A study varies axes; everything else follows here: the size of the model from the allocation law,
learning rate and batch from the hyperparameter law, the tokens from the budget.

    C    compute            training FLOPs, exact convention
    M    flops_per_token    non-embedding forward FLOPs of one token
    A    activation_ratio   (E_a + E_s) / (E + E_s)
    G    granularity        2 d_model / d_expert
    S    shared_ratio       E_s / (E_a + E_s)

The measured laws are adopted, not refitted: `data/fits/adopted/<name>.json` is written once when
the study behind it is complete, since a law that moved would change every run planned with it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from moe_leverage import paths
from moe_leverage.accounting import count_forward_flops, count_training_flops
from moe_leverage.axes import whole_experts
from moe_leverage.config import LING2_WITHOUT_GROUPS, ModelConfig, RoutingConfig, RunConfig
from moe_leverage.record import Record
from moe_leverage.rules import read_object, require, shown
from moe_leverage.theory.laws import PUBLISHED, JointLaw, PowerLaw

RESTORE = "restore it from the repository"  # for a second adoption would move the plans
SEQUENCE_LENGTH = 256  # tokens
VOCAB_SIZE = 1024
CORPUS = "full"
PROTOCOL = 2  # of the runs trained from here on; the first ladder's was the first
STARTING_MODEL = PowerLaw(0.0264, 0.6)  # M of C until the sizes are measured
EXPERT_MULTIPLE = 4  # the grouped matrix multiply wants widths of 16 bytes
MOST_STEPS = 10**9  # of a run whose budget has not been spent yet
MOST_EXPERTS = 512  # as in Table 8
AXIS_TOLERANCE = 0.15  # by which whole experts may miss an axis before a point is left out
RENORMALISE = True  # the pilot: 4.24 nats against 4.52 with gates as printed, at 1e12 FLOPs


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """The sizes of a model that do not depend on its experts."""

    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int


GEOMETRIES = tuple(
    Geometry(num_layers=layers, d_model=width, num_heads=heads, num_kv_heads=kv_heads)
    for layers, width, heads, kv_heads in (
        (1, 16, 1, 1),
        (1, 24, 1, 1),
        (1, 32, 2, 1),
        (2, 32, 2, 1),
        (3, 32, 2, 1),
        (3, 48, 3, 1),
        (4, 48, 3, 1),
        (4, 64, 4, 2),
        (4, 96, 6, 2),
        (5, 96, 6, 2),
        (6, 128, 8, 2),
        (8, 160, 10, 2),
    )
)


def _of_mixtures(default: Any) -> Any:
    """A field of a point that the dense model there does not have."""
    return field(default=default, metadata={"of_mixtures": True})


@dataclass(frozen=True, kw_only=True, slots=True)
class Point(Record):
    """One place on the paper's axes; the defaults are the paper's baseline, E 64, E_a 2, E_s 1."""

    budget_flops: float
    seed: int = 0
    dense: bool = False
    activation_ratio: float = _of_mixtures(3 / 65)
    granularity: float = _of_mixtures(2.0)
    shared_ratio: float = _of_mixtures(1 / 3)
    active_ffn_ratio: float = _of_mixtures(3.0)  # SwiGLU width that a token passes over d_model
    num_dense_layers: int = _of_mixtures(0)
    attention_share: float = _of_mixtures(0.0)  # of M; 0: what the geometry gives
    balance_coefficient: float = _of_mixtures(0.01)
    bias_routing: bool = _of_mixtures(
        False
    )  # sigmoid scores and bias balancing in place of auxiliary losses
    renormalise: bool = _of_mixtures(RENORMALISE)
    init_std: float = 0.02
    size: int = -1  # place in GEOMETRIES; -1: by the sizes measured
    learning_rate: float = 0.0  # 0: by the hyperparameter law
    learning_rate_factor: float = 1.0
    batch_tokens: int = 0  # 0: by the hyperparameter law
    batch_factor: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)  # fields of the run, last of all

    def __post_init__(self) -> None:
        last = len(GEOMETRIES) - 1
        require(-1 <= self.size <= last, "size", self.size, f"must be a place from -1 to {last}")
        for name, value in self.settings.items():
            require(name not in POINT_FIELDS, name, value, "is a field of the point, not a setting")
            require_axis(name, value)


POINT_FIELDS = frozenset(f.name for f in fields(Point))
MIXTURE_FIELDS = frozenset(f.name for f in fields(Point) if f.metadata.get("of_mixtures"))
ROUTING_FIELDS = frozenset(f.name for f in fields(RoutingConfig))
RUN_FIELDS = frozenset(f.name for part in (RunConfig, ModelConfig) for f in fields(part))


def require_axis(name: str, value: Any) -> None:
    """Raise a ValueError if no run could change with this name at a point."""
    rule = "is not a field of a point, a run, its model or its routing"
    require(name in POINT_FIELDS | RUN_FIELDS | ROUTING_FIELDS, name, value, rule)
    require(name != "num_steps", name, value, "follows from budget_flops")
    require(name != "parents", name, value, "follows from the sweep that it goes on `after`")


def require_family(point: Point, name: str, value: Any) -> None:
    """Raise a ValueError if this was chosen for a dense point, whose model has nothing like it."""
    is_foreign = point.dense and name in MIXTURE_FIELDS | ROUTING_FIELDS
    require(not is_foreign, name, value, "a dense model has none")


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredSizes:
    """M_opt of one family: the isoFLOP optima themselves, and their power law beyond them.

    EL is defined at the lowest loss of a budget (Definition 3.1). Bodies come in steps, and a power
    law through six optima misses some by a step, at which a loss is 0.1 nats above the lowest.
    Between two measured budgets ln M is linear in ln C.

    >>> sizes = MeasuredSizes(law=PowerLaw(1.0, 0.5), compute=(1e10, 1e12), optima=(2e5, 4e6))
    >>> [round(sizes(budget)) for budget in (1e10, 1e11, 1e14)]
    [200000, 894427, 10000000]
    """

    law: PowerLaw
    compute: tuple[float, ...]
    optima: tuple[float, ...]  # flops_per_token, one for each budget of `compute`

    def __call__(self, compute: float) -> float:
        """M_opt at a compute."""
        if not self.compute[0] <= compute <= self.compute[-1]:
            return float(self.law(compute))
        at = np.log(self.compute), np.log(self.optima)
        return float(np.exp(np.interp(math.log(compute), *at)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Laws:
    """The measured laws adopted so far, by family where they differ; None: not yet measured."""

    tuning: dict[str, PowerLaw] | None = None  # rates and batches
    isoflop: Mapping[str, Callable[[float], float]] | None = None  # sizes
    leverage: JointLaw | None = None


def adopted_laws() -> Laws:
    """The laws in data/fits/adopted; ValueError where a file there is another thing."""
    found: dict[str, Any] = {}
    for name in (f.name for f in fields(Laws)):
        path = adopted_path(name)
        if path.is_file():
            found[name] = _adopted(path)
    return Laws(**found)


def adopted_path(name: str) -> Path:
    """Where the law of this name stands once it is adopted."""
    return paths.DATA / "fits" / "adopted" / f"{name}.json"


def read_adopted(path: Path) -> dict[str, Any]:
    """What `adoption.adopt` wrote in a file; ValueError where it is another thing."""
    record = read_object(path, "adopted law")
    types = {"studies": list, "num_runs": int, "runs_sha256": str, "laws": dict}
    for key, kind in types.items():
        rule = f"its {key} must be of type {kind.__name__}; {RESTORE}"
        require(type(record.get(key)) is kind, "adopted law", str(path), rule)
    return record


def _adopted(path: Path) -> Any:
    """The laws in one file: by family, or the joint law by itself."""
    record = read_adopted(path)
    form = JointLaw if path.stem == "leverage" else PowerLaw
    try:
        read: dict[str, Any] = {key: form(**of) for key, of in record["laws"].items()}
        for key, measured in record.get("optima", {}).items():
            read[key] = MeasuredSizes(law=read[key], **{k: tuple(v) for k, v in measured.items()})
        return read["joint"] if path.stem == "leverage" else read
    except (KeyError, TypeError, AttributeError) as error:
        rule = f"its laws are none ({error}); {RESTORE}"
        raise ValueError(f"adopted law = {shown(str(path))}: {rule}") from None


def laws_for(study: str, needs: tuple[str, ...], laws: Laws) -> Laws:
    """The laws that a study is derived from and no others, so that its runs never move again.

    Raises ValueError naming the first that has not been measured.
    """
    for name in needs:
        rule = f"needs the {name} law: finish its study, then moe-leverage study adopt {name}"
        require(getattr(laws, name) is not None, "study", study, rule)
    return Laws(**{name: getattr(laws, name) for name in needs})


def derive(point: Point, laws: Laws) -> RunConfig:
    """The run at a point: size, learning rate, batch and steps by the adopted or starting laws.

    >>> run = derive(Point(budget_flops=1e12), Laws())
    >>> run.model.num_layers, run.model.d_model, run.model.num_experts, run.batch_tokens
    (4, 48, 64, 1536)
    """
    geometry = _geometry(point, laws)
    model = _dense(geometry, point) if point.dense else _mixture(geometry, point)
    return _run(model, point, laws)


def derive_on_smoke(point: Point, laws: Laws) -> RunConfig:
    """The run at a point on the small corpus, which every test machine has."""
    return replace(derive(point, laws), corpus="smoke")


def derive_partner(point: Point, laws: Laws) -> RunConfig:
    """The dense model that the measured leverage makes equal to the mixture at `point`.

    Section 5: as many tokens, and EL times the FLOPs of each; its rates are those of its own C.
    """
    partner_of = derive(replace(point, dense=False), laws)
    assert laws.leverage is not None
    leverage = laws.leverage(
        activation_ratio=partner_of.model.activation_ratio,
        granularity=partner_of.model.granularity,
        compute=point.budget_flops,
    )
    target = leverage * count_forward_flops(partner_of.model, SEQUENCE_LENGTH).total
    widths = range(16, 513, 16)
    geometry = _geometry(replace(point, dense=False), laws)
    candidates = [
        _dense(replace(geometry, d_model=width, num_heads=width // 16, num_kv_heads=1), point)
        for width in widths
    ]
    flops = [count_forward_flops(model, SEQUENCE_LENGTH).total for model in candidates]
    best = min(range(len(widths)), key=lambda i: abs(math.log(flops[i] / target)))
    compute = 3 * flops[best] * partner_of.num_tokens
    return _run(candidates[best], replace(point, dense=True, budget_flops=compute), laws)


def feasible(point: Point, run: RunConfig) -> bool:
    """Whether whole experts come close enough to the axes asked for, and there are not too many."""
    model = run.model
    if not model.is_moe:
        return True
    wanted = {"activation_ratio": point.activation_ratio, "shared_ratio": point.shared_ratio}
    if point.attention_share == 0:
        wanted["granularity"] = point.granularity
    return has_few_experts(point, run) and all(
        abs(getattr(model, name) - value) <= AXIS_TOLERANCE * value
        for name, value in wanted.items()
    )


def has_few_experts(point: Point, run: RunConfig) -> bool:
    """Whether the run stays within the experts of the paper, wherever it falls on the axes."""
    return run.model.num_experts <= MOST_EXPERTS


def _run(model: ModelConfig, point: Point, laws: Laws) -> RunConfig:
    """A model trained at the budget of a point."""
    compute = point.budget_flops
    family = _law_family(point, laws)
    starting = {"learning_rate": PUBLISHED.learning_rate, "batch_tokens": PUBLISHED.batch_tokens}
    measured = laws.tuning or {}
    rate_law = measured.get(f"{family}_learning_rate", starting["learning_rate"])
    batch_law = measured.get(f"{family}_batch_tokens", starting["batch_tokens"])
    rate = point.learning_rate or round(rate_law(compute), 6)
    batch_tokens = point.batch_tokens or batch_law(compute)
    batch = max(1, round(point.batch_factor * batch_tokens / SEQUENCE_LENGTH))
    draft = RunConfig(
        model=model,
        corpus=CORPUS,
        sequence_length=SEQUENCE_LENGTH,
        batch_sequences=batch,
        num_steps=MOST_STEPS,
        learning_rate=point.learning_rate_factor * rate,
        seed=point.seed,
    ).with_settings(point.settings)
    step_flops = count_training_flops(draft) / draft.num_steps
    return replace(draft, num_steps=max(1, round(compute / step_flops)))


def _geometry(point: Point, laws: Laws) -> Geometry:
    """The geometry asked for, or the one whose M comes closest to that of the sizes measured."""
    if point.size >= 0:
        return GEOMETRIES[point.size]
    if laws.isoflop is None:
        target = STARTING_MODEL(point.budget_flops)
    else:  # EL is defined at the lowest loss of a budget: Definition 3.1
        target = laws.isoflop[f"{_law_family(point, laws)}_model"](point.budget_flops)
    return min(GEOMETRIES, key=lambda geometry: abs(math.log(_baseline_flops(geometry) / target)))


def _law_family(point: Point, laws: Laws) -> str:
    """Whose rates, batches and sizes a point takes.

    A mixture whose experts are all active has those of its dense twin: what
    else would tell the two apart is the router alone, and their losses must be the same.
    """
    is_whole = laws.isoflop is not None and point.activation_ratio >= 1
    return "dense" if point.dense or is_whole else "moe"


@functools.cache
def _baseline_flops(geometry: Geometry) -> float:
    """M of the dense model of a geometry, which its mixtures share but for the router."""
    return count_forward_flops(_dense(geometry, None), SEQUENCE_LENGTH).non_embedding


def _sizes(geometry: Geometry) -> dict[str, Any]:
    return {f.name: getattr(geometry, f.name) for f in fields(geometry)} | {
        "vocab_size": VOCAB_SIZE
    }


def _dense(geometry: Geometry, point: Point | None) -> ModelConfig:
    """The dense model of a geometry: the FFN width of the baseline's active experts."""
    init_std = point.init_std if point else 0.02
    return ModelConfig(**_sizes(geometry), d_ffn=3 * geometry.d_model, init_std=init_std)


def _mixture(geometry: Geometry, point: Point) -> ModelConfig:
    """The mixture nearest to a point's axes in whole experts of a width that can be multiplied."""
    experts = whole_experts(
        activation_ratio=point.activation_ratio,
        granularity=point.granularity,
        shared_ratio=point.shared_ratio,
        d_model=geometry.d_model,
        active_ffn_ratio=point.active_ffn_ratio,
        multiple=EXPERT_MULTIPLE,
    )
    served_by = experts["num_active_experts"] + experts["num_shared_experts"]
    sizes = _sizes(geometry)
    if point.attention_share:
        sizes["d_head"], experts["d_expert"] = _attention_sizes(geometry, point, served_by)
    return ModelConfig(
        **sizes,
        **experts,
        num_dense_layers=point.num_dense_layers,
        d_ffn=served_by * experts["d_expert"] if point.num_dense_layers else 0,
        routing=_routing(point),
        init_std=point.init_std,
    )


def _attention_sizes(geometry: Geometry, point: Point, served_by: int) -> tuple[int, int]:
    """(d_head, d_expert) at which attention takes its share of an unchanged M (Table 11)."""
    counted = count_forward_flops(_dense(geometry, None), SEQUENCE_LENGTH)
    attention = counted.attention_projections + counted.attention_scores
    total = counted.non_embedding
    width = geometry.d_model // geometry.num_heads
    d_head = 2 * max(1, round(point.attention_share * total / attention * width / 2))
    ffn = 3 * geometry.d_model * (total - attention * d_head / width) / counted.dense_ffn
    return d_head, EXPERT_MULTIPLE * max(1, round(ffn / served_by / EXPERT_MULTIPLE))


def _routing(point: Point) -> RoutingConfig:
    if point.bias_routing:
        return LING2_WITHOUT_GROUPS
    return RoutingConfig(
        balance_coefficient=point.balance_coefficient, renormalise=point.renormalise
    )
