"""What stands beside the paper, trained small: on the ladder's rates, bodies and gates.

Three systems that a reader of the paper meets next, each a study with a question of its own; what
is asked, and the statistic that answers, stand in data/paper/neighbours.toml before any run.

    nano-ling    Ling 2.0 (arXiv 2510.22115): its recipe against the paper's in its own layout, and
                 without one part at a time, at equal compute: the FLOPs of a part are charged
    average-parameters   Jin et al. (arXiv 2501.12486): dense models pruned while they train, by
                 fifteen schedules, beside smaller dense models on as many tokens
    upcycling    BAM (arXiv 2408.08274): mixtures made of branches of one dense model, each trained
                 on one domain, beside a mixture from nothing and the dense model continued
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from moe_leverage.accounting import count_training_flops
from moe_leverage.stages import DOMAINS
from moe_leverage.studies.ladder import BASE, after_sizes
from moe_leverage.studies.protocol import Laws, Point, derive
from moe_leverage.studies.sweeps import SEEDS, Sweep, study

LING_PLACES = (  # training FLOPs, and the bodies of the searches there: one layer has to be dense
    {"budget_flops": 3e12, "size": 3},
    {"budget_flops": 1e13, "size": 5},
)

# 256 routed experts of a quarter of the width, 8 of them and 1 shared active, first layer dense.
LING_LAYOUT = replace(
    BASE,
    activation_ratio=9 / 257,
    granularity=8.0,
    shared_ratio=1 / 9,
    active_ffn_ratio=9 / 4,
    num_dense_layers=1,
)
LING_PARTS: Mapping[str, Mapping[str, Any]] = {  # each beside the ladder's recipe, which is {}
    "scoring": {"score": "sigmoid"},
    "balancing": {
        "balance_coefficient": 0.0, "z_coefficient": 0.0, "bias_update_rate": 1e-3,
    },
    "groups": {"num_groups": 8, "num_groups_kept": 4},
    "scaling": {"scaling": 2.5},
    "qk-norm": {"qk_norm": "head"},
    "half-rope": {"rope_fraction": 0.5},
    "token-prediction": {"num_mtp_layers": 1},
    # At a constant rate, over a window about as long as the decay; its halves are scored beside it.
    "merging": {
        "decay": "none", "merge_checkpoints": 16, "merge_interval": 12, "merge_windows": 4,
    },
}  # fmt: skip
DENSE_FIRST = "dense-first"  # a part of the layout, which the paper's recipe has here as well


def _recipe(*without: str) -> dict[str, Any]:
    """Ling 2.0's recipe less these parts, as fields of a point and its run.

    >>> "qk_norm" in _recipe(), "qk_norm" in _recipe("qk-norm"), _recipe(DENSE_FIRST)["num_groups"]
    (True, False, 8)
    """
    parts = [fields for name, fields in LING_PARTS.items() if name not in without]
    layout = {"num_dense_layers": 0} if DENSE_FIRST in without else {}
    return {name: value for fields in (*parts, layout) for name, value in fields.items()}


LING_DESIGNS = (
    {},  # the ladder's recipe: the paper's but for the coefficient of the balance loss
    _recipe(),
    *(_recipe(name) for name in (*LING_PARTS, DENSE_FIRST)),
)

# C is what a dense machine spends, so that a pruned run sees as many tokens as its body unpruned;
# the dense models beside it are smaller and see as many tokens too, at less compute.
PRUNED_BODIES: tuple[dict[str, Any], ...] = (
    {"budget_flops": 1e12, "size": 6},
    {"budget_flops": 3e12, "size": 7},
)
SMALLEST_DENSE = 2  # place in GEOMETRIES: below what four fifths pruned leave of either body


def _dense_beside(budget_flops: float, size: int) -> Iterator[dict[str, Any]]:
    """Dense bodies up to this one with the budgets, to three digits, that give its tokens."""
    costs = [
        count_training_flops(derive(Point(budget_flops=1e12, dense=True, size=place), Laws()))
        / derive(Point(budget_flops=1e12, dense=True, size=place), Laws()).num_tokens
        for place in range(size + 1)
    ]
    for place in range(SMALLEST_DENSE, size + 1):
        yield {
            "budget_flops": float(f"{budget_flops * costs[place] / costs[size]:.2e}"),
            "size": place,
        }


DENSE_BODIES = tuple(dense for body in PRUNED_BODIES for dense in _dense_beside(**body))
WINDOWS = ((0.25, 0.75), (0.0, 0.5), (0.5, 1.0), (0.25, 0.5), (0.5, 0.75))  # the first: their best
SCHEDULES = tuple(
    {"prune_sparsity": sparsity, "prune_start": start, "prune_end": end}
    for sparsity in (0.4, 0.6, 0.8)
    for start, end in WINDOWS
)

# One body throughout: between those that the searches found best for the seed's budget and for all.
# The mixtures' layers have an FFN of each branch, two of which serve a token.
UPCYCLED_DENSE = replace(BASE, dense=True, size=4)
UPCYCLED_MIXTURE = replace(
    BASE,
    size=4,
    activation_ratio=2 / len(DOMAINS),
    granularity=2 / 3,
    shared_ratio=0.0,
    active_ffn_ratio=6.0,
)
SEED_FLOPS, BRANCH_FLOPS, FURTHER_FLOPS = 3e12, 5e11, 3e12  # of each stage's own steps
BRANCHES_FLOPS = len(DOMAINS) * BRANCH_FLOPS
ATTENTIONS: tuple[dict[str, Any], ...] = (  # averaged; BAM's; BAM's with shared keys and values
    {},
    {"num_attention_experts": len(DOMAINS)},
    {"num_attention_experts": len(DOMAINS), "shares_key_values": True},
)

STUDIES = (
    after_sizes(
        "nano-ling",
        "which parts of Ling 2.0's recipe lower the loss at equal compute, and by how much",
        Sweep(
            name="recipes",
            base=LING_LAYOUT,
            axes={"place": LING_PLACES, "recipe": LING_DESIGNS, "seed": SEEDS},
        ),
        role="variant",
        varies=(
            "num_dense_layers", "num_mtp_layers", "qk_norm", "rope_fraction", "routing.score",
            "routing.scaling", "routing.num_groups", "routing.bias_update_rate", "decay",
        ),
    ),
    study(
        "average-parameters",
        "is the loss of a model pruned while it trains the dense law's at its average size?",
        Sweep(
            name="schedules",
            base=replace(BASE, dense=True),
            axes={"body": PRUNED_BODIES, "schedule": SCHEDULES, "seed": SEEDS[:2]},
        ),
        Sweep(
            name="dense",
            base=replace(BASE, dense=True),
            axes={"body": DENSE_BODIES, "seed": SEEDS[:2]},
        ),
        needs=("tuning",),
        role="variant",
        varies=("d_model", "num_layers", "prune_sparsity", "prune_start", "prune_end"),
    ),
    study(
        "upcycling",
        "does a mixture of branches gain from their attentions, and repay the branches?",
        Sweep(
            name="seed",
            base=replace(UPCYCLED_DENSE, budget_flops=SEED_FLOPS),
            axes={"seed": SEEDS},
        ),
        Sweep(
            name="branches",
            base=replace(UPCYCLED_DENSE, budget_flops=BRANCH_FLOPS),
            axes={"domain": DOMAINS, "seed": SEEDS},
            after="seed",
        ),
        Sweep(
            name="upcycled",
            base=replace(UPCYCLED_MIXTURE, budget_flops=FURTHER_FLOPS),
            axes={"attention": ATTENTIONS, "seed": SEEDS},
            after="branches",
        ),
        Sweep(
            name="from-nothing",  # given all the compute of an upcycled mixture and its chain
            base=replace(
                UPCYCLED_MIXTURE, budget_flops=SEED_FLOPS + BRANCHES_FLOPS + FURTHER_FLOPS
            ),
            axes={"seed": SEEDS},
        ),
        Sweep(
            name="continued",  # without what the branches cost, and with it
            base=UPCYCLED_DENSE,
            axes={
                "budget_flops": (FURTHER_FLOPS, BRANCHES_FLOPS + FURTHER_FLOPS),
                "seed": SEEDS,
            },
            after="seed",
        ),
        needs=("tuning",),
        role="variant",
        varies=(
            "domain", "num_parents", "num_experts", "num_attention_experts", "shares_key_values",
        ),
    ),
)  # fmt: skip
