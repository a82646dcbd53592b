"""How each layer of a built model mixes positions, read off its modules.

Attention is told by its output projection, whose inputs are heads times the width of a value; a
layer that keeps a state is told by the sizes that its module carries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from moe_leverage.design.anatomy import Mixer
from moe_leverage.design.parts import first_whole

ATTENTION = re.compile(r"Attention(?!Residual)|MLA$|JetMoeMoA$")
OUTPUT = ("o_proj", "out_proj", "dense", "c_proj", "wo", "out_lin", "o_b_proj", "o_a_proj")
STATEFUL = re.compile(
    r"(Mamba\w*Mixer|DeltaNet|DeltaAttention|Lightning|LinearAttention|Rglru|ShortConv|Mixer|MambaLayer"
    r"|RwkvSelfAttention|ShortConvolution)\w*$"
)
HOLDER = re.compile(r"(Decoder|Encoder|Hybrid)Layer$|Model$|LM$|Block$|Cache$|Norm\w*$|Mask")
# Read by the encoder's output or by pictures, neither of which a language model is given.
ASIDE = re.compile(r"cross_?attn|crossattention|encoder_attn|vision|image|audio")
APPROXIMATE = re.compile(r"Indexer|Compressor|BigBird|Reformer|LSH|DiffLlama|Prophet")

# Sizes by which a module names the state that it keeps, one product a row, the first that fits.
STATES: tuple[tuple[str, ...], ...] = (
    ("num_v_heads", "head_k_dim", "head_v_dim"),
    ("n_mamba_heads", "mamba_head_dim", "ssm_state_size"),
    ("intermediate_size", "ssm_state_size"),
    ("num_heads", "head_dim", "ssm_state_size"),
    ("num_heads", "qk_head_dim", "v_head_dim"),
    ("num_attention_heads", "head_dim", "head_dim"),
    ("num_heads", "head_dim", "head_dim"),
)
CHUNKED = "chunked_attention"


def mixers_of(modules: Mapping[str, Any], config: Any) -> tuple[tuple[Mixer, ...], list[str]]:
    """The mixers among these modules, equal layers together, and what is not counted of them."""
    found: dict[Mixer, int] = {}
    unread: set[str] = set()
    for path, module in _mixing(modules):
        name = type(module).__name__
        mixer = _stateful(module) if _keeps_state(module) else _attention(module, path, config)
        if mixer is None:
            unread.add(name)
        else:
            found[mixer] = found.get(mixer, 0) + 1
    classes = {type(module).__name__ for path, module in modules.items() if not ASIDE.search(path)}
    rough = {n for n in classes if APPROXIMATE.search(n) and not HOLDER.search(n)} | unread
    if not found and not unread:
        rough.add(f"{type(modules[next(iter(modules))]).__name__}, of which no layer is known,")
    notes = [
        f"attention_scores is an estimate: what {name} adds or leaves out is not counted"
        for name in sorted(rough)
    ]
    return tuple(replace(mixer, layers=layers) for mixer, layers in found.items()), notes


def _mixing(modules: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Outermost modules of the classes above that own a matrix; a wrapper gives way to its part."""
    names = [
        path
        for path, module in modules.items()
        if (_keeps_state(module) or ATTENTION.search(type(module).__name__))
        and not HOLDER.search(type(module).__name__)
        and not ASIDE.search(path)
        and any(tensor.dim() >= 2 for tensor in module.parameters())
    ]
    for path in names:
        module = modules[path]
        inner = any(other.startswith(f"{path}.") for other in names)
        outer = any(path.startswith(f"{other}.") for other in names)
        if inner and not _is_whole(module):
            continue  # a wrapper, such as BertAttention
        if outer and any(path.startswith(f"{o}.") and _is_whole(modules[o]) for o in names):
            continue
        yield path, module


def _keeps_state(module: Any) -> bool:
    named = STATEFUL.search(type(module).__name__) is not None
    return named and first_whole(module, "kv_lora_rank") is None


def _is_whole(module: Any) -> bool:
    return _keeps_state(module) or _output(module) is not None


def _output(module: Any) -> Any:
    children = dict(module.named_children())
    return next((children[name] for name in OUTPUT if name in children), None)


def _attention(module: Any, path: str, config: Any) -> Mixer | None:
    head = first_whole(module, "v_head_dim", "head_dim", "head_size", "attention_head_size", "d_kv")
    value = _value_width(module)
    if head is None and value is not None:
        heads = first_whole(config, "num_attention_heads", "n_heads", "n_head")
        head = value // heads if heads else None
    if not head or value is None or value < head:
        return None
    heads = value // head
    key = first_whole(module, "qk_head_dim") or first_whole(module, "head_dim") or head
    kind, window = _kind(module, path, config)
    return Mixer(
        kind=kind,
        layers=1,
        window=window,
        score_width=heads * (key + head),
        cached=_cached(module, config, heads, head),
    )


def _value_width(module: Any) -> int | None:
    """Heads times the width of a value: what the output projection takes in."""
    output = _output(module)
    if output is None:
        width = first_whole(module, "all_head_size")
        return int(width) if width else None
    if hasattr(output, "in_features"):
        grouped = first_whole(output, "n_groups", "num_groups") or 1
        return int(output.in_features) * grouped
    weight = getattr(output, "weight", None)
    return None if weight is None else int(weight.shape[0])  # Conv1D of GPT-2


def _cached(module: Any, config: Any, heads: int, head: int) -> int:
    if getattr(module, "is_kv_shared_layer", False):
        return 0
    if latent := first_whole(module, "kv_lora_rank"):
        return int(latent) + int(first_whole(module, "qk_rope_head_dim") or 0)
    children = dict(module.named_children())
    if hasattr(children.get("k_proj"), "out_features"):
        key = int(children["k_proj"].out_features)
        value = children.get("v_proj")
        return key + int(getattr(value, "out_features", key))
    names = ("num_key_value_heads", "num_kv_heads")
    return 2 * head * int(first_whole(module, *names) or first_whole(config, *names) or heads)


def _kind(module: Any, path: str, config: Any) -> tuple[str, int | None]:
    """What a layer of attention sees: all positions, the last w, or those of its chunk."""
    said = getattr(module, "layer_type", None) or getattr(module, "attention_type", None)
    listed = getattr(config, "layer_types", None)
    index = re.search(r"\.(\d+)\.", f".{path}.")
    if not isinstance(said, str) and listed and index and int(index.group(1)) < len(listed):
        said = listed[int(index.group(1))]
    if said == CHUNKED:
        return "chunked", first_whole(config, "attention_chunk_size")
    window = first_whole(module, "sliding_window") or first_whole(config, "sliding_window")
    slides = "sliding" in said if isinstance(said, str) else bool(window)
    return ("sliding", window) if slides and window else ("full", None)


def _stateful(module: Any) -> Mixer | None:
    """A layer that keeps a state; `kind` is its class in words."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(module).__name__)
    kind = _plain(name)
    if kind == "short convolution":
        weights = [p for p in module.parameters() if p.dim() == 3]
        return Mixer(kind=kind, layers=1, state=sum(p.shape[0] * (p.shape[2] - 1) for p in weights))
    if kind == "recurrent":
        vectors = [p.numel() for p in module.parameters() if p.dim() == 1]
        return Mixer(kind=kind, layers=1, state=max(vectors))
    for names in STATES:
        sizes = [first_whole(module, name) for name in names]
        if all(sizes):
            return Mixer(kind=kind, layers=1, state=prod(int(size or 0) for size in sizes))
    return None


def _plain(name: str) -> str:
    for words, kind in (
        ("Mamba", "Mamba"), ("Delta", "linear attention"), ("Lightning", "linear attention"),
        ("Linear", "linear attention"), ("Conv", "short convolution"), ("Rglru", "recurrent"),
        ("Rwkv", "recurrent"), ("LSTM", "recurrent"),
    ):  # fmt: skip
        if words in name:
            return kind
    return "Mamba"
