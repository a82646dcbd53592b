"""The studies of the paper's axes: bodies that grow, a baseline that is tuned, balanced routers.

Pilots settle the recipe, `tuning` its rates and batches, `isoflop` its bodies; then the axes are
walked at 3e11 to 1e13 FLOPs, and at 3e13 in a few places. `analysis.gates` says what must hold
before any of it decides a claim. It is the second ladder of budgets: the runs of the first are an
archive, `ledger.FIRST_LADDER`, that no study plans and no law reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from moe_leverage.studies.protocol import (
    Point,
    derive_on_smoke,
    derive_partner,
    has_few_experts,
)
from moe_leverage.studies.sweeps import (
    ATTENTION_SHARES,
    DENSE,
    EXPERTS,
    GRANULARITIES,
    SEEDS,
    SHARED,
    Study,
    Sweep,
    joint_points,
    study,
)

# The pilots: bodies, batches and rates by hand, since their laws come after them. All validation
# tokens are scored at every budget: one yardstick for losses of all budgets.
PILOT_BASE = Point(budget_flops=1e12, settings={"validation_tokens": 1_000_000})
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

# The ladder keeps the paper's recipe but for the coefficient of the balance loss: 0.1 is the
# least at which the pilot's routers stay balanced with 256 experts. Of what the noise pilot tried
# nothing brings the spread between seeds down, so nothing else is changed.
BASE = NOISE_BASE
TUNING_GRIDS = (  # training FLOPs, body, powers of two of the rate and of the batch in tokens
    (3e11, 3, range(-9, -4), range(9, 13)),
    (1e12, 3, range(-9, -4), range(10, 14)),
    (3e12, 5, range(-9, -4), range(10, 14)),
    (1e13, 5, range(-9, -5), range(11, 15)),
)
ISOFLOP_SIZES = (  # training FLOPs, bodies; an odd one or two on either side of the trials' best
    (1e11, range(4)),
    (3e11, range(1, 7)),
    (1e12, range(1, 7)),
    (3e12, range(2, 8)),
    (1e13, range(3, 9)),
    (3e13, range(5, 10)),
)
LADDER = (3e11, 1e12, 3e12, 1e13)  # training FLOPs, walked whole; 3e13 in a few places
TOP = 3e13
DENSE_END = 1e11  # below the mixtures; above them the sizes carry the frontier: `isoflop`
AT_THE_TOP = (EXPERTS[2], EXPERTS[5], DENSE)  # E 8 and 64
SPARSEST = EXPERTS[7]  # E 256, whose routers lose their balance at 3e13: no third seed
TWO_PLACES = (  # of what is not the law's: three seeds where they are cheap, two above
    {"budget_flops": 1e12, "seed": 0},
    {"budget_flops": 1e12, "seed": 1},
    {"budget_flops": 1e12, "seed": 2},
    {"budget_flops": 1e13, "seed": 0},
    {"budget_flops": 1e13, "seed": 1},
)
DEEP_ENOUGH = tuple(  # the bodies of the searches, whose first layer may be dense
    {**place, "size": 3 if place["budget_flops"] < TUNING_GRIDS[2][0] else 5}
    for place in TWO_PLACES
)
OVERTRAINED = (  # the bodies of the searches at a third of the budget: three times the best tokens
    {"budget_flops": 3e12, "size": 2},
    {"budget_flops": 1e13, "size": 3},
)
OVERTRAINED_DENSE = ({"budget_flops": 1e12, "size": 1}, {"budget_flops": 3e13, "size": 5})
CROSS: tuple[dict[str, Any], ...] = (
    {},
    {"learning_rate_factor": 0.5},
    {"learning_rate_factor": 2.0},
    {"batch_factor": 0.5},
    {"batch_factor": 2.0},
)
CHECKED: dict[
    str, dict[str, Any]
] = {  # Fig. 3's activation ratios, and the sparsest and the finest design of the ladder
    "active-2": {},
    "active-4": {"activation_ratio": 5 / 65, "shared_ratio": 1 / 5, "active_ffn_ratio": 5.0},
    "active-6": {"activation_ratio": 7 / 65, "shared_ratio": 1 / 7, "active_ffn_ratio": 7.0},
    "experts-256": EXPERTS[7],
    "granularity-8": {"granularity": 8.0},
}
NANO_BETA = replace(  # Ling-mini-beta's layout (Table 3) at the largest budget that is walked whole
    BASE,
    budget_flops=LADDER[-1],
    activation_ratio=13 / 385,
    granularity=12.0,
    shared_ratio=1 / 13,
    active_ffn_ratio=13 / 6,
)
REPLAY = Point(budget_flops=5e10, size=4, learning_rate=2.0**-9, batch_tokens=512)
WEAK_BALANCE = 0.001  # a hundredth of the ladder's; the paper's 0.01 lies between
MERGING: tuple[
    dict[str, Any], ...
] = (  # checkpoints averaged at a constant rate, over two windows, in place of the decay
    {},
    {"decay": "none"},
    {"decay": "none", "merge_checkpoints": 8, "merge_interval": 20},
    {"decay": "none", "merge_checkpoints": 16, "merge_interval": 25},
)


def _both_families(budget: float, **axes: Sequence[Any]) -> Iterator[Sweep]:
    """A grid at one budget, for the dense model and for the baseline."""
    for family in ("dense", "moe"):
        yield Sweep(
            name=f"{family}-{budget:.0e}",
            base=replace(BASE, dense=family == "dense", budget_flops=budget),
            axes=axes,
            repeat_best=SEEDS[1:],
        )


def after_sizes(name: str, answers: str, *sweeps: Sweep, **more: Any) -> Study:
    """A study whose rates, batches and bodies are those that the ladder measured."""
    return study(name, answers, *sweeps, needs=("tuning", "isoflop"), **more)


def _variants(
    name: str, answers: str, base: Point, axes: Mapping[str, Sequence[Any]], **more: Any
) -> Study:
    """A study of something that the laws do not vary, at a cheap budget and at a dear one."""
    sweep = Sweep(name="ladder", base=base, axes={"place": TWO_PLACES} | dict(axes))
    return after_sizes(name, answers, sweep, role="variant", **more)


STUDIES = (
    study(
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
        role="pilot",
    ),
    study(
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
        role="pilot",
    ),
    study(
        "tuning",
        "Eq. 3, Fig. 2",
        *(
            sweep
            for budget, size, rates, batches in TUNING_GRIDS
            for sweep in _both_families(
                budget,
                size=(size,),
                learning_rate=tuple(2.0**power for power in rates),
                batch_tokens=tuple(2**power for power in batches),
            )
        ),
        needs=(),
        role="search",
    ),
    study(
        "isoflop",
        "Eq. 4, Table 1, Fig. 4",
        *(
            sweep
            for budget, sizes in ISOFLOP_SIZES
            for sweep in _both_families(budget, size=tuple(sizes))
        ),
        needs=("tuning",),
        role="sizes",
    ),
    after_sizes(
        "activation",
        "Eq. 7, Eq. 10, Fig. 5, 8a",
        Sweep(
            name="ladder",
            base=BASE,
            axes={"budget_flops": LADDER, "experts": (*EXPERTS, DENSE), "seed": SEEDS},
        ),
        Sweep(
            name="reach",
            base=replace(BASE, budget_flops=TOP),
            axes={"experts": AT_THE_TOP, "seed": SEEDS},
        ),
        Sweep(
            name="reach-sparsest",
            base=replace(BASE, budget_flops=TOP),
            axes={"experts": (SPARSEST,), "seed": SEEDS[:2]},
        ),
        Sweep(
            name="dense-frontier",
            base=replace(BASE, dense=True),
            axes={"budget_flops": (DENSE_END,), "seed": SEEDS[:2]},
        ),
        role="plain",
    ),
    after_sizes(
        "granularity",
        "Eq. 8, Eq. 11, Fig. 6, 8b",
        Sweep(  # not at 3e13: one seed there decides nothing, and two cost what all the rest does
            name="ladder",
            base=BASE,
            axes={"budget_flops": LADDER, "granularity": GRANULARITIES, "seed": SEEDS},
        ),
        role="plain",
    ),
    after_sizes(
        "joint",
        "does the separable law predict interactions? held out from every fit",
        Sweep(
            name="halton",
            base=BASE,
            axes={"design": joint_points(LADDER[1], TOP)},
            where=has_few_experts,
        ),
        role="held out",
    ),
    after_sizes(
        "tuning-check",
        "Fig. 3: do the laws of rate and batch hold for sparse and for fine designs?",
        *(
            Sweep(
                name=name,
                base=replace(BASE, budget_flops=3e12, **design),
                axes={"cross": CROSS},
            )
            for name, design in CHECKED.items()
        ),
        role="check",
    ),
    after_sizes(
        "overtrained",
        "Section 4: is leverage the same where all read three times the best tokens of their size?",
        Sweep(
            name="both",
            base=BASE,
            axes={"place": OVERTRAINED, "experts": (*AT_THE_TOP, SPARSEST), "seed": SEEDS[:2]},
        ),
        Sweep(  # below and above, so that the leverage of the others lies between
            name="dense-ends",
            base=replace(BASE, dense=True),
            axes={"place": OVERTRAINED_DENSE},
        ),
        role="check",
    ),
    _variants(
        "balance",
        "Fig. 12",
        replace(BASE, balance_coefficient=WEAK_BALANCE),
        {"granularity": GRANULARITIES},
        varies=("routing.balance_coefficient",),
    ),
    _variants(
        "shared",
        "Eq. 9, Fig. 7",
        replace(BASE, granularity=8.0),
        {"experts": SHARED},
    ),
    _variants(
        "dense-first",
        "Fig. 13ab",
        BASE,
        {"place": DEEP_ENOUGH, "num_dense_layers": (0, 1)},
        varies=("num_dense_layers",),
    ),
    _variants(
        "attention",
        "Fig. 13cd",
        BASE,
        {"attention_share": ATTENTION_SHARES},
        varies=("attention_share",),
    ),
    _variants(
        "bias-routing",
        "balance without an auxiliary loss, as in Ling 2.0",
        BASE,
        {"experts": (EXPERTS[4], EXPERTS[6]), "bias_routing": (False, True)},
        varies=("routing.score",),
    ),
    _variants(
        "merge",
        "checkpoints merged in place of a decaying rate, as in Ling 2.0 (arXiv 2510.22115)",
        BASE,
        {"recipe": MERGING},
        varies=("decay", "merge_checkpoints"),
    ),
    study(
        "nano-beta",
        "Section 5, Tables 3 and 4, Fig. 10",
        Sweep(name="moe", base=NANO_BETA, axes={"seed": SEEDS}),
        Sweep(name="dense", base=NANO_BETA, axes={"seed": SEEDS}, derive=derive_partner),
        needs=("tuning", "isoflop", "leverage"),
        role="check",
    ),
    study(
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
)
