"""The parameters of a built model, each told by its name and its module for one component.

Two readings of one list: parameters, where a tensor counts once however often it is used, and
matrix products, where it counts wherever it is used and by the share of tokens that visit it.

    E    leading dimension of the tensors under `experts`
    E_a  experts that the router of a layer chooses
    f    width of an expert
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from moe_leverage.accounting import FLOPS_PER_MAC, ForwardFlops, ParameterCount
from moe_leverage.design.anatomy import STATE_FLOPS, Experts
from moe_leverage.rules import require

SHARED = re.compile(r"^shared_(experts?|mlp)")
ROUTER = re.compile(r"^(gate|router|expert_bias|moe_statics|e_score_correction_bias)$")
ATTENTION = re.compile(r"attn|attention")
MIXER = re.compile(r"mixer|mamba|conv|rg_lru|temporal|lstm|linear_attn")
FFN_CLASS = re.compile(r"MLP|FeedForward|FFN|Mlp|Intermediate|Output$")
FFN_NAME = re.compile(r"^(mlps?|mlp_block|ffns?|ff|feed_?forward|fc\d?|fc_in|fc_out|intermediate)$")
NORM = re.compile(r"norm|(^|_)ln(_|$)|Norm")
# Parameters of two dimensions or more that no position is multiplied with as with a matrix.
NO_PRODUCT = re.compile(r"bias|embed|A_log|^[AD]$|time_|pos|lambda|probe|sinks|base|scale|mask_emb")
DOWN = re.compile(r"down|output|w2|c_proj|dense_4h|fc2|fc_out|wo$")
TOP_K = (
    "top_k", "num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "top_k_experts",
    "moe_top_k", "num_selected_experts", "experts_per_token",
)  # fmt: skip
NUM_SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
EXPERT_WIDTH = ("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A parameter in one of the places where it is used."""

    path: str
    layer: str  # the path of the layer it lies in; empty outside the layers
    owner: Any  # the module that holds it
    block: Any  # the module that holds that one
    tensor: Any
    component: str

    @property
    def leaf(self) -> str:
        """Its own name and that of its module, such as `down_proj.weight`."""
        return ".".join(self.path.split(".")[-2:])


def parts_of(modules: Mapping[str, Any], head: Any) -> list[Part]:
    """Every parameter of these modules wherever it is used, told for its component."""
    places = [
        Part(
            path=(whole := f"{path}.{name}".lstrip(".")),
            layer=_layer(whole),
            owner=module,
            block=modules.get(path.rpartition(".")[0]),
            tensor=tensor,
            component="",
        )
        for path, module in modules.items()
        for name, tensor in module._parameters.items()
        if tensor is not None
    ]
    routed = {part.layer: part.path for part in places if _is_routed(part)}
    return [
        replace(part, component=_component(part, modules, head, routed.get(part.layer)))
        for part in places
    ]


def parameters_of(parts: Sequence[Part], shares: Mapping[str, float]) -> ParameterCount:
    """Trained parameters by component, each tensor once."""
    sizes = dict.fromkeys(
        ("embedding", "attention", "router", "routed_experts", "shared_experts", "dense_ffn",
         "norms", "logits", "other"), 0
    )  # fmt: skip
    seen: set[int] = set()
    active = 0.0
    for part in parts:
        if id(part.tensor) in seen or not part.tensor.requires_grad:
            continue
        seen.add(id(part.tensor))
        sizes[part.component] += part.tensor.numel()
        if part.component == "routed_experts":
            active += part.tensor.numel() * shares[part.layer]
    return ParameterCount(**sizes, mtp=0, active_routed_experts=round(active), active_mtp=0)


def products_of(parts: Sequence[Part], shares: Mapping[str, float], state: int) -> ForwardFlops:
    """FLOPs of one token's matrix products by component, and of the updates of its state."""
    names = {"attention": "attention_projections", "embedding": "other", "norms": "other"}
    sizes = dict.fromkeys(
        ("attention_projections", "router", "routed_experts", "shared_experts", "dense_ffn",
         "logits", "other"), 0.0
    )  # fmt: skip
    for part in parts:
        if _multiplies(part):
            share = shares[part.layer] if part.component == "routed_experts" else 1
            name = names.get(part.component, part.component)
            sizes[name] += FLOPS_PER_MAC * part.tensor.numel() * share
    return ForwardFlops(
        **sizes, attention_scores=0, norms=0, mtp=0, state_updates=STATE_FLOPS * state
    )


def experts_of(
    parts: Sequence[Part], config: Any, d_model: int
) -> tuple[tuple[Experts, ...], dict[str, float]]:
    """The experts of each kind of layer, and the share of them that a token visits, by layer.

    Shared width that is a multiple of the routed width is so many shared experts.
    """
    found: dict[Experts, int] = {}
    shares: dict[str, float] = {}
    layers: dict[str, list[Part]] = {}
    for part in parts:
        layers.setdefault(part.layer, []).append(part)
    for layer, own in layers.items():
        routed = [part for part in own if part.component == "routed_experts"]
        if not routed:
            continue
        number = max(int(part.tensor.shape[0]) for part in routed)
        chosen = _chosen(own, config)
        require(chosen <= number, "num_experts_per_tok", chosen, f"exceeds {number} experts")
        shares[layer] = chosen / number
        d_expert = _expert_width(routed, config, d_model)
        d_shared = _shared_width(own)
        experts = Experts(
            layers=1,
            num_experts=number,
            num_active_experts=chosen,
            num_shared_experts=shared_number(
                d_shared, d_expert, first_whole(config, *NUM_SHARED) or 1
            ),
            d_expert=d_expert,
            d_shared=d_shared,
            d_model=d_model,
        )
        found[experts] = found.get(experts, 0) + 1
    return tuple(replace(experts, layers=layers) for experts, layers in found.items()), shares


def shared_number(d_shared: int, d_expert: int, said: int) -> int:
    """E_s: how many times the routed width fits into the shared width, or what the file says.

    >>> shared_number(5632, 1408, 1), shared_number(512, 384, 1), shared_number(0, 384, 1)
    (4, 1, 0)
    """
    if not d_shared:
        return 0
    return d_shared // d_expert if d_shared % d_expert == 0 else said


def dense_width(parts: Sequence[Part]) -> int:
    """The width of the first dense FFN; 0 where there is none."""
    dense = [p for p in parts if p.component == "dense_ffn" and p.tensor.dim() == 2]
    named = [p for p in dense if DOWN.search(p.leaf)]
    return max(
        (int(size) for part in (named or dense)[:1] for size in part.tensor.shape), default=0
    )


def _layer(path: str) -> str:
    found = re.match(r"(.*?\.\d+)\.", path)
    return found.group(1) if found else ""


def _is_routed(part: Part) -> bool:
    """A tensor of all experts of a layer: under `experts`, one entry an expert."""
    names = part.path.split(".")[:-1]
    if any(SHARED.match(name) or ROUTER.match(name) for name in names):
        return False
    named = "experts" in names or type(part.owner).__name__.endswith("Experts")
    return named and part.tensor.dim() >= 2


def _component(part: Part, modules: Mapping[str, Any], head: Any, experts: str | None) -> str:
    """`experts` is the path of a tensor of experts in the same layer, if there is one."""
    names, kind = part.path.split("."), type(part.owner).__name__
    if head is not None and part.owner is head:
        return "logits"
    if "Embedding" in kind:
        return "embedding"
    if experts and (told := _of_mixture(part, names)):
        return told
    if NORM.search(kind) or any(NORM.search(name) for name in names[-3:]):
        return "norms"
    if any(ATTENTION.search(name) for name in names[:-1]):
        return "attention"
    above = [modules.get(".".join(names[:n])) for n in range(1, len(names))]
    is_ffn = any(FFN_CLASS.search(type(module).__name__) for module in above if module is not None)
    if is_ffn or any(FFN_NAME.match(name) for name in names):
        beside = experts is not None and experts.rsplit(".experts.", 1)[0] == part.layer
        return "shared_experts" if beside else "dense_ffn"
    return "attention" if any(MIXER.search(name) for name in names[:-1]) else "other"


def _of_mixture(part: Part, names: Sequence[str]) -> str:
    if any(SHARED.match(name) for name in names):
        return "shared_experts"
    if _is_routed(part):
        return "routed_experts"
    outside = not any(ATTENTION.search(name) for name in names)
    return "router" if outside and any(ROUTER.match(name) for name in names) else ""


def _multiplies(part: Part) -> bool:
    if part.component != "logits" and "Embedding" in type(part.owner).__name__:
        return False
    name = part.path.split(".")[-1]
    return part.tensor.dim() >= 2 and not NO_PRODUCT.search(name)


def _chosen(parts: Sequence[Part], config: Any) -> int:
    """E_a of a layer: what its router says, or its block, or the config."""
    routers = [part.owner for part in parts if part.component == "router"]
    blocks = [part.block for part in parts if part.component in ("router", "routed_experts")]
    for owner in (*routers, *blocks, config):
        if found := first_whole(owner, *TOP_K):
            return found
    raise ValueError("num_experts_per_tok = None: the model does not say how many experts it picks")


def _expert_width(routed: Sequence[Part], config: Any, d_model: int) -> int:
    """f: the dimension of the last matrix that is not the model's; of two alike, that one."""
    shapes = [part.tensor.shape for part in routed if part.tensor.dim() == 3]
    down = [p.tensor.shape for p in routed if p.tensor.dim() == 3 and DOWN.search(p.leaf)]
    inside = [int(size) for size in (down or shapes)[-1][1:]]
    if d_model in inside:
        inside.remove(d_model)
        return inside[0]
    said = [getattr(config, name, None) for name in EXPERT_WIDTH]  # experts of a latent
    return next((size for size in inside if size in said), min(inside))


def _shared_width(parts: Sequence[Part]) -> int:
    """The width of all shared experts of a layer together."""
    width = 0
    for part in parts:
        if part.component == "shared_experts" and DOWN.search(part.leaf) and part.tensor.dim() >= 2:
            shape = [int(size) for size in part.tensor.shape]
            width += shape[0] * shape[2] if len(shape) == 3 else shape[1]
    return width


def first_whole(owner: Any, *names: str) -> int | None:
    """The first of these attributes that is a whole number above 0."""
    for name in names:
        value = getattr(owner, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
