"""What a model is and what a training run is, in the paper's own axes (Section 2.1, Appendix A).

Everything here is frozen data: a config is built, checked at once, and never changed. Fields are
sizes; the paper's axes are properties derived from them.

    E    num_experts             routed experts of a layer
    E_a  num_active_experts      routed experts that serve one token
    E_s  num_shared_experts      experts that serve every token
    A    activation_ratio        (E_a + E_s) / (E + E_s)
    S    shared_ratio            E_s / (E_a + E_s)
    G    granularity             2 d_model / d_expert
    B    batch_tokens            tokens of one optimiser step
    D    num_tokens              tokens of the whole run
    eta  learning_rate           peak learning rate
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

from moe_leverage.record import Record, converted, field_types
from moe_leverage.rules import one_of, require, require_count, require_number

MOST_LAYERS = 10**6  # of a model; each is an object, and some counts go through them
MOST_ATTENTION_EXPERTS = 1_024  # of a layer; each attends to the whole sequence
MOST_MERGE_WINDOWS = 16  # each needs twice the checkpoints of the one before


def _require_counts(config: object, minimum: int, *names: str) -> None:
    for name in names:
        require_count(name, getattr(config, name), minimum)


def _require_numbers(
    config: object, low: float, high: float, *names: str, above: bool = False
) -> None:
    for name in names:
        require_number(name, getattr(config, name), low, high, above=above)


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingConfig(Record):
    """How the router scores, selects and weighs experts, and what keeps their load even.

    The defaults are the paper's recipe (Appendix B): softmax over all experts, the top k of them,
    gates as printed (not renormalised), balance loss 0.01 and z-loss 0.001. `LING2_ROUTING` is the
    later recipe of Ling 2.0.
    """

    score: Literal["softmax", "sigmoid"] = "softmax"
    renormalise: bool = False  # chosen gates divided by their sum; never applied when E_a = 1
    scaling: float = 1.0  # factor on the chosen gates
    num_groups: int = 1  # of equal size, to which the experts are dealt
    num_groups_kept: int = 1  # groups among whose experts a token may choose
    balance_coefficient: float = 0.01  # x mean over MoE layers of the balance loss, 1 when uniform
    z_coefficient: float = 0.001  # x mean over MoE layers of mean squared logsumexp of the logits
    bias_update_rate: float = 0.0  # u of the selection bias, centred sign steps; 0 turns it off

    def __post_init__(self) -> None:
        options = ("softmax", "sigmoid")
        require(self.score in options, "score", self.score, one_of(options))
        _require_counts(self, 1, "num_groups", "num_groups_kept")
        rule = f"cannot exceed num_groups = {self.num_groups}"
        require(
            self.num_groups_kept <= self.num_groups, "num_groups_kept", self.num_groups_kept, rule
        )
        _require_numbers(self, 0.0, 1e3, "balance_coefficient", "z_coefficient", "bias_update_rate")
        _require_numbers(self, 0.0, 1e6, "scaling", above=True)


PAPER_VOCABULARY_SIZE = 126_464  # Appendix B
PAPER_SEQUENCE_LENGTH = 4_096  # tokens, Appendix B
PAPER_ROUTING = RoutingConfig()
LING2_ROUTING = RoutingConfig(  # arXiv 2510.22115, Section 2; groups as in its released scripts
    score="sigmoid",
    renormalise=True,
    scaling=2.5,
    num_groups=8,
    num_groups_kept=4,
    balance_coefficient=0.0,
    z_coefficient=0.0,
    bias_update_rate=1e-3,
)
# The same where all experts compete: our own models are too small to be cut into groups.
LING2_WITHOUT_GROUPS = replace(LING2_ROUTING, num_groups=1, num_groups_kept=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentAttentionConfig(Record):
    """Widths of multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, Section 2.1)."""

    kv_rank: int  # width of the compressed key-value latent
    d_head_nope: int  # query-key width per head without position
    d_head_rope: int  # query-key width per head with rotary position, shared by all heads in keys
    d_head_value: int
    q_rank: int = 0  # width of the compressed query latent; 0: queries are not compressed

    def __post_init__(self) -> None:
        _require_counts(self, 1, "kv_rank", "d_head_nope", "d_head_rope", "d_head_value")
        _require_counts(self, 0, "q_rank")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(Record):
    """The shape of one decoder-only transformer, dense (E = 0) or mixture-of-experts.

    `d_head` and `d_shared` may be left out; they are then resolved to d_model / num_heads and to
    E_s d_expert, and read back resolved.

    >>> baseline = ModelConfig(vocab_size=1024, num_layers=4, d_model=64, num_heads=4,
    ...     num_kv_heads=2, num_experts=64, num_active_experts=2, num_shared_experts=1, d_expert=64)
    >>> round(baseline.activation_ratio, 4), round(baseline.shared_ratio, 3), baseline.granularity
    (0.0462, 0.333, 2.0)
    """

    vocab_size: int
    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    d_head: int = 0  # 0: d_model / num_heads
    d_ffn: int = 0  # SwiGLU width of the dense layers
    num_experts: int = 0
    num_active_experts: int = 0
    num_shared_experts: int = 0
    d_expert: int = 0
    d_shared: int = 0  # SwiGLU width of all shared experts together; 0: E_s d_expert
    num_dense_layers: int = 0  # first layers of an MoE model that keep a dense FFN
    num_mtp_layers: int = 0  # multi-token-prediction layers after the last one
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    latent_attention: LatentAttentionConfig | None = None
    qk_norm: Literal["none", "head", "width"] = "none"  # RMSNorm of each head, or of all heads
    rope_fraction: float = 1.0  # leading share of each head that is rotated
    rope_theta: float = 10_000.0
    attention_bias: bool = False  # on the query, key and value projections
    attention_output_bias: bool = False
    attention_sinks: bool = False  # one learned logit a head (gpt-oss)
    ffn_bias: bool = False  # on every FFN and expert matrix
    router_bias: bool = False  # a learned bias of the router's linear map, not the balancing bias
    num_attention_experts: int = 0  # whole attentions, all of which serve a token; 0: one, no gate
    shares_key_values: bool = False  # one key and value projection a layer for all its attentions
    parallel_blocks: bool = False  # attention and FFN of a block read the same normed input
    tie_embeddings: bool = False
    norm_eps: float = 1e-6
    init_std: float = 0.02

    def __post_init__(self) -> None:
        _require_counts(self, 1, "vocab_size", "num_layers", "d_model", "num_heads", "num_kv_heads")
        _require_counts(
            self, 0, "d_head", "d_ffn", "num_experts", "num_active_experts", "num_shared_experts",
            "d_expert", "d_shared", "num_dense_layers", "num_mtp_layers",
        )  # fmt: skip
        for name in ("num_layers", "num_mtp_layers"):
            require_count(name, getattr(self, name), 0, MOST_LAYERS)
        self._check_attention()
        if self.is_moe:
            self._check_experts()
        else:
            self._check_dense()
        _require_numbers(self, 0.0, 1.0, "rope_fraction", "init_std")
        _require_numbers(self, 0.0, 1.0, "norm_eps", above=True)
        _require_numbers(self, 1.0, 1e12, "rope_theta", above=True)

    def _check_attention(self) -> None:
        heads, rule = self.num_kv_heads, f"must divide num_heads = {self.num_heads}"
        require(self.num_heads % heads == 0, "num_kv_heads", heads, rule)
        if self.d_head == 0:
            rule = f"must be a multiple of num_heads = {self.num_heads}, or d_head be given"
            require(self.d_model % self.num_heads == 0, "d_model", self.d_model, rule)
            object.__setattr__(self, "d_head", self.d_model // self.num_heads)
        options = ("none", "head", "width")
        require(self.qk_norm in options, "qk_norm", self.qk_norm, one_of(options))
        self._check_attention_experts()

    def _check_attention_experts(self) -> None:
        count = self.num_attention_experts
        require_count("num_attention_experts", count, 0, MOST_ATTENTION_EXPERTS)
        rule = "must be 0 where there is one attention"
        require(count != 1, "num_attention_experts", count, rule)
        rule = "needs num_attention_experts of 2 at least to be shared by"
        require(count > 0 or not self.shares_key_values, "shares_key_values", True, rule)
        for name in ("latent_attention", "attention_sinks"):
            is_other = bool(getattr(self, name))
            rule = f"cannot be with {name}: its experts are attentions of plain heads"
            require(not (count and is_other), "num_attention_experts", count, rule)

    def _check_experts(self) -> None:
        _require_counts(self, 1, "num_active_experts", "d_expert")
        top_k, experts = self.num_active_experts, self.num_experts
        require(top_k <= experts, "num_active_experts", top_k, f"exceeds num_experts = {experts}")
        groups, kept = self.routing.num_groups, self.routing.num_groups_kept
        rule = f"must be a multiple of routing.num_groups = {groups}"
        require(experts % groups == 0, "num_experts", experts, rule)
        reachable = experts // groups * kept
        rule = f"exceeds the {reachable} experts of the {kept} groups kept"
        require(top_k <= reachable, "num_active_experts", top_k, rule)
        dense, rule = (
            self.num_dense_layers,
            f"leaves no MoE layer of num_layers = {self.num_layers}",
        )
        require(dense < self.num_layers, "num_dense_layers", dense, rule)
        rule = "must be positive: the model has dense layers"
        require(dense == 0 or self.d_ffn > 0, "d_ffn", self.d_ffn, rule)
        if self.d_shared == 0:
            object.__setattr__(self, "d_shared", self.num_shared_experts * self.d_expert)
        has_shared = self.num_shared_experts > 0
        rule = f"contradicts num_shared_experts = {self.num_shared_experts}"
        require(has_shared == (self.d_shared > 0), "d_shared", self.d_shared, rule)

    def _check_dense(self) -> None:
        for name in ("num_active_experts", "num_shared_experts", "d_expert", "d_shared"):
            value = getattr(self, name)
            require(value == 0, name, value, "must be 0 in a dense model (num_experts = 0)")
        require(self.d_ffn > 0, "d_ffn", self.d_ffn, "must be positive in a dense model")
        if self.num_dense_layers == 0:
            object.__setattr__(self, "num_dense_layers", self.num_layers)
        rule = f"must equal num_layers = {self.num_layers} in a dense model"
        dense = self.num_dense_layers
        require(dense == self.num_layers, "num_dense_layers", dense, rule)

    @property
    def is_moe(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return self.num_experts > 0

    @property
    def num_moe_layers(self) -> int:
        """Layers whose FFN is a mixture of experts, multi-token-prediction layers left out."""
        return self.num_layers - self.num_dense_layers

    @property
    def activation_ratio(self) -> float:
        """A = (E_a + E_s) / (E + E_s) (Section 2.1); 1 for a dense model."""
        if not self.is_moe:
            return 1.0
        active = self.num_active_experts + self.num_shared_experts
        return active / (self.num_experts + self.num_shared_experts)

    @property
    def shared_ratio(self) -> float:
        """S = E_s / (E_a + E_s) (Section 2.1); 0 for a dense model."""
        if not self.is_moe:
            return 0.0
        return self.num_shared_experts / (self.num_active_experts + self.num_shared_experts)

    @property
    def granularity(self) -> float:
        """G = 2 d_model / d_expert (Section 2.1); d_ffn for d_expert if dense."""
        return 2 * self.d_model / (self.d_expert if self.is_moe else self.d_ffn)

    @property
    def d_active_ffn(self) -> int:
        """SwiGLU width that one token passes in an MoE layer; d_ffn for a dense model."""
        if not self.is_moe:
            return self.d_ffn
        return self.num_active_experts * self.d_expert + self.d_shared


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig(Record):
    """One training run, complete: the model, the data it sees and how it is optimised.

    The defaults are the paper's recipe (Appendix B); decay_fraction is our choice, since the paper
    does not print where its decay begins. What does not change the result beyond floating-point
    order (device, threads, dispatch) is not part of a run.
    """

    model: ModelConfig
    corpus: str  # tier of the corpus, "smoke" or "full"
    domain: str = ""  # the one domain of its training text that is seen; "": all of it
    parents: tuple[RunConfig, ...] = ()  # whose last weights it begins from; several: `upcycled`
    sequence_length: int
    batch_sequences: int
    num_steps: int
    learning_rate: float
    seed: int = 0
    warmup_fraction: float = 0.01
    min_warmup_steps: int = 10
    decay: Literal["exponential", "linear", "cosine", "sqrt", "none"] = "exponential"
    decay_fraction: float = 0.2  # last share of the steps, over which the rate decays
    final_rate_fraction: float = 0.1  # learning rate of the last step over the peak
    merge_checkpoints: int = 0  # equally weighted checkpoints merged at the end (WSM); 0: none
    merge_interval: int = 1  # steps between two merged checkpoints
    merge_windows: int = 1  # merges scored: of all checkpoints, their last half, last quarter, ...
    prune_sparsity: float = 0.0  # share of the blocks' matrices held at zero in the end; 0: none
    prune_start: float = 0.25  # share of the steps done when the first weights are pruned
    prune_end: float = 0.75  # share of the steps done when the last are
    prune_interval: int = 10  # steps between two moves of the masks
    weight_decay: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    gradient_clip: float = 1.0
    mtp_coefficient: float = 0.1  # x mean cross-entropy of the multi-token-prediction layers
    precision: Literal["fp32", "bf16"] = "fp32"
    order_seed: int = -1  # of the order of the batches; -1: that of the weights, `seed`
    validation_tokens: int = 131_072  # scored at the end, or all there are if fewer

    def __post_init__(self) -> None:
        _require_counts(self, 1, "sequence_length", "batch_sequences", "num_steps")
        _require_counts(self, 1, "merge_interval", "validation_tokens")
        _require_counts(self, 0, "seed", "min_warmup_steps", "merge_checkpoints")
        _require_counts(self, -1, "order_seed")
        _require_numbers(
            self, 0.0, 1.0, "warmup_fraction", "decay_fraction", "final_rate_fraction",
            "weight_decay", "adam_beta1", "adam_beta2",
        )  # fmt: skip
        _require_numbers(self, 0.0, 10.0, "learning_rate", above=True)
        _require_numbers(self, 0.0, 1.0, "adam_eps")
        _require_numbers(self, 0.0, 1e30, "gradient_clip", above=True)
        _require_numbers(self, 0.0, 1e3, "mtp_coefficient")
        rule = "must be positive: a step at rate 0 would be wasted"
        rate = self.final_rate_fraction
        require(self.decay == "none" or rate > 0, "final_rate_fraction", rate, rule)
        merged_steps = self.merge_checkpoints * self.merge_interval
        rule = f"with merge_interval = {self.merge_interval} needs more steps than num_steps"
        require(merged_steps <= self.num_steps, "merge_checkpoints", self.merge_checkpoints, rule)
        self._check_windows()
        self._check_pruning()

    def _check_pruning(self) -> None:
        _require_numbers(self, 0.0, 0.99, "prune_sparsity")
        _require_numbers(self, 0.0, 1.0, "prune_start", "prune_end")
        _require_counts(self, 1, "prune_interval")
        if not self.prune_sparsity:
            for name, default in PRUNING_DEFAULTS.items():
                value = getattr(self, name)
                require(value == default, name, value, "prunes nothing without prune_sparsity")
            return
        sparsity, rule = self.prune_sparsity, "the masks of a mixture's experts have no rule here"
        require(not self.model.is_moe, "prune_sparsity", sparsity, rule)
        rule = "cannot be with merge_checkpoints: a mean of models has the masks of none"
        require(not self.merge_checkpoints, "prune_sparsity", sparsity, rule)
        first, last = (
            round(share * self.num_steps) for share in (self.prune_start, self.prune_end)
        )
        rule = f"must be a step at least after prune_start = {self.prune_start:g} of the run"
        require(first < last, "prune_end", self.prune_end, rule)

    def _check_windows(self) -> None:
        require_count("merge_windows", self.merge_windows, 1, MOST_MERGE_WINDOWS)
        times = 2 ** (self.merge_windows - 1)
        is_halved = self.merge_checkpoints % times == 0 and self.merge_checkpoints >= 2 * times
        rule = f"must halve merge_checkpoints = {self.merge_checkpoints} into two or more each time"
        require(self.merge_windows == 1 or is_halved, "merge_windows", self.merge_windows, rule)

    @property
    def batch_tokens(self) -> int:
        """B in tokens: batch_sequences x sequence_length."""
        return self.batch_sequences * self.sequence_length

    @property
    def batch_seed(self) -> int:
        """The seed that orders the batches: `order_seed`, or that of the weights."""
        return self.seed if self.order_seed < 0 else self.order_seed

    @property
    def num_tokens(self) -> int:
        """D: tokens seen in the whole run."""
        return self.num_steps * self.batch_tokens

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """The same run with these fields of itself, its model or its routing changed.

        >>> model = ModelConfig(vocab_size=16, num_layers=1, d_model=8, num_heads=2,
        ...     num_kv_heads=1, d_ffn=16)
        >>> run = RunConfig(model=model, corpus="smoke", sequence_length=8, batch_sequences=1,
        ...     num_steps=100, learning_rate=1e-3)
        >>> changed = run.with_settings({"adam_beta2": 0.99, "qk_norm": "head"})
        >>> changed.adam_beta2, changed.model.qk_norm
        (0.99, 'head')
        """
        owners: tuple[Any, ...] = (type(self), type(self.model), type(self.model.routing))
        changes: tuple[dict[str, Any], ...] = ({}, {}, {})
        for name, value in settings.items():
            places = [i for i, owner in enumerate(owners) if name in field_types(owner)]
            rule = "is not a field of a run, its model or its routing"
            require(bool(places), "settings", name, rule)
            owner = owners[places[0]]
            value = converted(f"{owner.__name__}.{name}", value, field_types(owner)[name])
            changes[places[0]][name] = value
        own, of_model, of_routing = changes
        if of_routing:
            of_model["routing"] = replace(self.model.routing, **of_routing)
        if of_model:
            own["model"] = replace(self.model, **of_model)
        return replace(self, **own) if own else self

    def with_seed(self, seed: int) -> Self:
        """The same run from another seed of weights and batches, as are the runs behind it."""
        parents = tuple(parent.with_seed(seed) for parent in self.parents)
        return replace(self, seed=seed, parents=parents)


PRUNING_DEFAULTS = {  # of what says how a run prunes, once it does
    f.name: f.default for f in fields(RunConfig) if f.name.startswith("prune_")
}
