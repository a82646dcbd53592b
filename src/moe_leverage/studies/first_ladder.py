"""The studies of the first ladder: one recipe, the paper's, at budgets of 1e11 to 3e12 FLOPs.

Its mixtures are one body whatever the budget, its dense baseline was not tuned at the top and its
routers collapse: `analysis.gates` has the figures, and the second ladder is the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from moe_leverage.studies.protocol import (
    BUDGETS,
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
    Sweep,
    joint_points,
    study,
)

FRONTIER_ENDS = (3e10, 1e13)  # training FLOPs
FRONTIER_REACH = 3e13  # one dense run: the upper end of an interval may need it, no value does
LEARNING_RATES = tuple(2.0**-power for power in (11, 10, 9, 8, 7))
BATCHES = (256, 512, 1024, 2048)  # tokens
JOINT_BUDGETS = (1e11, 1e12)  # training FLOPs
BASE = Point(budget_flops=BUDGETS[0])
LADDER = BUDGETS[:3]  # walked whole; the last budget, three times dearer, at a few places
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


def _both_families(**axes: Sequence[Any]) -> Iterator[Sweep]:
    """The same grid for the dense and the mixture of the first studies."""
    for name in ("dense", "moe"):
        yield Sweep(name=name, base=replace(HPARAMS_BASE, dense=name == "dense"), axes=axes)


STUDIES = (
    study(
        "hparams",
        "Eq. 3, Fig. 2",
        *_both_families(budget=HPARAMS_BUDGETS, learning_rate=LEARNING_RATES, batch_tokens=BATCHES),
        needs=(),
        repeat_best=(1, 2),
        role="first search",
    ),
    study(
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
    study(
        "hparams-second",  # the sizes of the first were two to four times too large
        "Eq. 3, Fig. 2 at the measured sizes",
        *_both_families(
            budget_flops=LADDER, learning_rate=LEARNING_RATES[2:], batch_tokens=BATCHES[:3]
        ),
        needs=("allocation",),
        role="search",
    ),
    study(
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
    study(
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
    study(
        "joint",
        "does the separable law predict interactions? held out from every fit",
        Sweep(
            name="halton",
            base=BASE,
            axes={"design": joint_points(*JOINT_BUDGETS)},
            where=has_few_experts,
        ),
        role="held out",
    ),
    study(
        "shared",
        "Eq. 9, Fig. 7",
        Sweep(
            name="ladder",
            base=SHARED_BASE,
            axes={
                "budget_flops": LADDER,
                "experts": SHARED,
                "seed": SEEDS,
            },
        ),
        role="variant",
    ),
    study(
        "nano-beta",
        "Section 5, Tables 3 and 4, Fig. 10",
        Sweep(name="moe", base=NANO_BETA, axes={"seed": (0, 1, 2)}),
        Sweep(name="dense", base=NANO_BETA, axes={"seed": (0, 1, 2)}, derive=derive_partner),
        needs=("hyperparameters", "allocation", "leverage"),
        role="check",
    ),
    study(
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
    study(
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
    study(
        "attention",
        "Fig. 13cd",
        Sweep(
            name="ladder",
            base=BASE,
            axes={
                "budget_flops": LADDER,
                "attention_share": ATTENTION_SHARES,
                "seed": SEEDS,
            },
        ),
        role="variant",
        varies=("attention_share",),
    ),
    study(
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
    study(
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
    study("pilot", "choices of the first protocol, by hand", role="pilot", needs=()),
)
