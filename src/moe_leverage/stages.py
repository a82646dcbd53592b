"""Runs that begin from others: what their chain is, sees and costs, and which cannot be.

A stage begins with the last weights of its parents: of one, continued; of several, the branches
of a mixture (`model.upcycling`). Its config holds theirs, so that its identity is that of the whole
chain, no chain can close in a circle, and a chain is trained again as a run is. Its optimiser,
its schedule and its losses begin anew.

Whatever a stage sees of the text goes on where the chain behind it stopped: the order is that of
one seed, from which nothing is drawn twice. A branch goes through the text of its domain, in an
order of its own.

    domain    the one domain of the training text that a run sees
    C         FLOPs of a run's own steps; with those of the runs behind it, each counted once
"""

from __future__ import annotations

from collections.abc import Sequence

from moe_leverage.accounting import count_training_flops
from moe_leverage.config import ModelConfig, RunConfig
from moe_leverage.rules import require

DOMAINS = ("code", "prose", "services", "data")  # of the training text
OF_EXPERTS = (  # fields in which the mixture may differ from its branches
    "num_experts", "num_active_experts", "d_expert", "d_ffn", "num_dense_layers", "routing",
    "num_attention_experts", "shares_key_values", "router_bias",
)  # fmt: skip
OF_THE_CHAIN = ("corpus", "sequence_length", "batch_seed")  # else its text would not go on


def behind(run: RunConfig) -> list[RunConfig]:
    """The runs that lead to this one, each once and after its own parents.

    >>> shape = ModelConfig(vocab_size=16, num_layers=1, d_model=8, num_heads=2, num_kv_heads=1,
    ...     d_ffn=16)
    >>> seed = RunConfig(model=shape, corpus="smoke", sequence_length=8, batch_sequences=1,
    ...     num_steps=100, learning_rate=1e-3)
    >>> from dataclasses import replace
    >>> pair = tuple(replace(seed, domain=name, parents=(seed,)) for name in ("code", "prose"))
    >>> [one.domain for one in behind(replace(seed, parents=pair))]
    ['', 'code', 'prose']
    """
    found: dict[RunConfig, None] = {}
    for parent in run.parents:
        found |= dict.fromkeys((*behind(parent), parent))
    return list(found)


def chain_flops(run: RunConfig) -> float:
    """C of a run and of all runs behind it, each once: what its loss cost if nothing was there."""
    return sum(map(count_training_flops, (*behind(run), run)))


def sequences_before(run: RunConfig) -> int:
    """Sequences of a run's text that its chain has seen already, after which it goes on."""
    return max((_sequences_seen(parent, run.domain) for parent in run.parents), default=0)


def require_chain(run: RunConfig) -> None:
    """Refuse a run that cannot begin from its parents, or one of them from theirs.

    Raises ValueError naming the field of the run, its value and what its parents ask for.
    """
    for parent in run.parents:
        require_chain(parent)
        for name in OF_THE_CHAIN:
            value, rule = getattr(parent, name), "must be that of the runs it begins from"
            require(getattr(run, name) == value, name, getattr(run, name), f"{rule}, {value}")
    if len(run.parents) == 1:
        for name, value in run.parents[0].model.to_dict().items():
            rule = f"must be that of the run it continues, {value}"
            is_equal = getattr(run.model, name) == getattr(run.parents[0].model, name)
            require(is_equal, name, getattr(run.model, name), rule)
    elif run.parents:
        domains = [parent.domain for parent in run.parents]
        rule = "must be a domain for each branch, another for each"
        require(all(domains) and len(set(domains)) == len(domains), "domain", domains, rule)
        require_branches([parent.model for parent in run.parents], run.model)


def require_branches(branches: Sequence[ModelConfig], config: ModelConfig) -> None:
    """Refuse branches that are not one dense shape, and a mixture that they cannot become."""
    require(len(branches) >= 2, "branches", len(branches), "must be two at least")
    seed = branches[0]
    require(not seed.is_moe, "branches", seed.num_experts, "must be dense: of num_experts = 0")
    require(all(b == seed for b in branches), "branches", len(branches), "must be of one shape")
    count = len(branches)
    rule = f"must be the number of branches, {count}"
    require(config.num_experts == count, "num_experts", config.num_experts, rule)
    attentions = config.num_attention_experts
    require(attentions in (0, count), "num_attention_experts", attentions, f"{rule}, or 0")
    rule = f"must be the d_ffn of the branches, {seed.d_ffn}"
    require(config.d_expert == seed.d_ffn, "d_expert", config.d_expert, rule)
    dense = config.num_dense_layers
    require(
        dense == 0, "num_dense_layers", dense, "must be 0: every layer has an FFN of each branch"
    )
    for name, value in seed.to_dict().items():
        rule = f"must be that of the branches, {value}"
        is_equal = name in OF_EXPERTS or getattr(config, name) == getattr(seed, name)
        require(is_equal, name, getattr(config, name), rule)


def _sequences_seen(run: RunConfig, domain: str) -> int:
    own = run.num_steps * run.batch_sequences if run.domain == domain else 0
    return own + max((_sequences_seen(parent, domain) for parent in run.parents), default=0)
