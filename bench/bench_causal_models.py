"""Every causal language model of the pinned transformers, counted and built: exact, off, refused.

python bench/bench_causal_models.py             the table
python bench/bench_causal_models.py --defaults  write data/architectures.json anew

A type is exact if what `explain` counts of its default config is what the library builds, off if it
is another number, and refused with the reason if the library cannot build its own defaults.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from moe_leverage.design import class_words, closed_form, huggingface
from moe_leverage.design.built import construct, quietly
from moe_leverage.design.parts import TOP_K, first_whole
from moe_leverage.design.words import is_structural

EXACT, OFF, REFUSED = "exact", "off", "refused"
FUZZED = 80  # configs a type
DROPPED, RESPELLED, NULL = 0.25, 0.15, 0.04  # chances of a key
CHANGED = 0.3  # chance of a size of a type without a closed form
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
CHOICES: dict[str, tuple[Any, ...]] = {
    "vocab_size": (64, 100), "hidden_size": (32, 48, 64), "intermediate_size": (48, 96),
    "num_hidden_layers": (1, 2, 3, 5), "num_attention_heads": (2, 4, 8),
    "num_key_value_heads": (1, 2, 4), "head_dim": (8, 16), "tie_word_embeddings": (True, False),
    "attention_bias": (True, False), "mlp_bias": (True, False), "use_bias": (True, False),
    "use_qk_norm": (True, False), "num_experts": (4, 8), "num_local_experts": (4, 8),
    "n_routed_experts": (4, 8), "moe_num_experts": (4, 8), "num_experts_per_tok": (1, 2),
    "moe_k": (1, 2), "n_shared_experts": (1, 2), "moe_num_shared_experts": (0, 1, 2),
    "moe_intermediate_size": (16, 24), "first_k_dense_replace": (0, 1, 2),
    "moe_layer_start_index": (0, 1, 2), "moe_layer_end_index": (-1, 1, 2),
    "moe_layer_interval": (1, 2), "decoder_sparse_step": (1, 2), "mlp_only_layers": ([], [0], [1]),
    "kv_lora_rank": (8, 16), "q_lora_rank": (None, 8, 24), "qk_nope_head_dim": (8, 16),
    "qk_rope_head_dim": (4, 8), "v_head_dim": (8, 16), "n_group": (1, 2), "topk_group": (1, 2),
    "sliding_window": (None, 8), "use_sliding_window": (True, False), "max_window_layers": (1, 28),
    "num_mtp_layers": (0, 1), "num_nextn_predict_layers": (0, 1),
}  # fmt: skip
SIZES = {  # of a small config from which one field at a time is set to null
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48,
}  # fmt: skip


def run() -> list[dict[str, Any]]:
    """Two rows: types that are off of all there are, and configs that are off of those drawn."""
    start = time.perf_counter()
    defaults = Counter(verdict for _, verdict, _ in table())
    by_default = time.perf_counter() - start
    kinds = [kind for kind in closed_form.FORMS if kind not in class_words.REPOSITORY]
    kinds += built_kinds()
    fuzzes = Counter(fuzz(kind, number)[0] for kind in kinds for number in range(FUZZED))
    return [
        row("default configs counted otherwise than built", defaults, by_default),
        row("fuzzed configs so", fuzzes, time.perf_counter() - start - by_default),
    ]


def row(name: str, verdicts: Counter[str], seconds: float) -> dict[str, Any]:
    """One figure: how many are off, which none may be."""
    return {
        "name": name,
        "shape": f"{verdicts[EXACT]} exact, {verdicts[REFUSED]} refused, {seconds:.0f} s",
        "value": float(verdicts[OFF]),
        "unit": "configs",
        "peer": "transformers",
        "ratio": None,
        "target": "0",
        "met": verdicts[OFF] == 0,
    }


def table() -> list[tuple[str, str, str]]:
    """Each type with its verdict, and the count or the reason."""
    return [(kind, *verdict({"model_type": kind})) for kind in causal_kinds()]


def causal_kinds() -> list[str]:
    """Every type of which transformers has a causal language model."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return sorted({config.model_type for config in MODEL_FOR_CAUSAL_LM_MAPPING})


def built_kinds() -> list[str]:
    """Those of them that have no closed form here."""
    return [kind for kind in causal_kinds() if kind not in closed_form.FORMS]


def verdict(raw: dict[str, Any]) -> tuple[str, str]:
    """Whether a config is counted as it is built, and the count or the reason."""
    try:
        anatomy = huggingface.read(raw).anatomy
    except ValueError as error:
        return REFUSED, str(error)
    wanted = built_total(raw)
    parts = anatomy.parameters
    if parts.total != wanted:
        return OFF, f"{parts.total:,} for {wanted:,}"
    return EXACT, f"{wanted:,} ({anatomy.way}; {parts.other / parts.total:.1%} told for no part)"


def built_total(raw: dict[str, Any]) -> int:
    """Trained parameters of the language model that the library builds, summed afresh."""
    return built_counts(raw)[0]


def built_counts(raw: dict[str, Any]) -> tuple[int, int]:
    """Those parameters, and how many of them a token visits by what its config says of experts.

    A tensor of all experts is one of three dimensions in a module that is named for them.
    """
    with quietly():
        config, model = construct(raw)
    text = config.get_text_config(decoder=True)
    held = [model] if text is config else [model.get_decoder(), model.get_output_embeddings()]
    chosen = first_whole(text, *TOP_K)
    seen: set[int] = set()
    total, asleep = 0, 0.0
    for path, module in (
        each for part in held if part is not None for each in part.named_modules()
    ):
        stacked = [tensor for tensor in module.parameters(recurse=False) if tensor.dim() == 3]
        shared = path.rpartition(".")[2].startswith("shared")  # always awake
        names_experts = "Experts" in type(module).__name__ and not shared
        number = max((tensor.shape[0] for tensor in stacked), default=0)  # zero experts included
        for tensor in module.parameters(recurse=False):
            if id(tensor) in seen or not tensor.requires_grad:
                continue
            seen.add(id(tensor))
            total += tensor.numel()
            if names_experts and chosen and tensor.dim() >= 2 and stacked:
                asleep += tensor.numel() * (1 - chosen / number)
    return total, round(total - asleep)


def fuzzed(kind: str, number: int) -> dict[str, Any]:
    """A config of this type with sizes at random, keys dropped, spelled otherwise or set to null.

    >>> fuzzed("llama", 0)["model_type"]
    'llama'
    """
    draw = random.Random(f"{kind} {number}")
    raw: dict[str, Any] = {"model_type": kind}
    names, sizes = _closed_sizes(kind, draw) if kind in closed_form.FORMS else _sizes(kind, draw)
    for name, value in sizes.items():
        spelled = name
        if draw.random() < RESPELLED:
            others = [g for g in class_words.THEIR_NAMES.values() if name in g]
            spelled = draw.choice([names.get(name, name), *(others[0] if others else ())])
        raw[spelled] = None if draw.random() < NULL else value
    if kind in closed_form.FORMS and draw.random() < RESPELLED:
        raw["head_dim"] = draw.choice(CHOICES["head_dim"])
    return raw


def _closed_sizes(kind: str, draw: random.Random) -> tuple[dict[str, str], dict[str, Any]]:
    """Other names of a closed type's fields, and small values of most of them."""
    table = class_words.class_tables()[kind]
    kept = [name for name in table["defaults"] if name in CHOICES and draw.random() >= DROPPED]
    names = {value: key for key, value in table["aliases"].items()}
    return names, {name: draw.choice(CHOICES[name]) for name in kept}


def _sizes(kind: str, draw: random.Random) -> tuple[dict[str, str], dict[str, Any]]:
    """The same of any other type: few layers, and some sizes that its class does not expect."""
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[kind]
    names = {value: key for key, value in cls.attribute_map.items()}
    found: dict[str, Any] = {}
    for entry in dataclasses.fields(cls):
        name, default = entry.name, entry.default
        if name in LAYERS:
            found[name] = draw.choice((1, 2, 3, 4, 6))
        elif not is_structural(name) or draw.random() >= CHANGED:
            continue
        elif name in CHOICES:
            found[name] = draw.choice(CHOICES[name])
        elif isinstance(default, bool):
            found[name] = draw.random() < 0.5
        elif isinstance(default, int):
            near = (default, max(default // 2, 1), 2 * default)
            found[name] = draw.choice((*near, 1, 2, 8))
    return names, found


def fuzz(kind: str, number: int) -> tuple[str, str]:
    """The verdict on one such config; what the library cannot build is no number to differ from."""
    raw = fuzzed(kind, number)
    try:
        counted = huggingface.read(raw).anatomy.parameters
    except ValueError as error:
        return REFUSED, str(error)
    try:
        total, active = built_counts(raw)
    except ValueError as error:
        return OFF, f"{counted.total:,}, but the library refuses: {error}: {raw}"
    if counted.total != total or abs(counted.active - active) > 1:
        ours = f"{counted.total:,} and {counted.active:,} active"
        return OFF, f"{ours} for {total:,} and {active:,}: {raw}"
    return EXACT, ""


def class_defaults() -> dict[str, dict[str, Any]]:
    """Of each type with a closed form: defaults of what it reads, other names, what may be null."""
    from transformers import CONFIG_MAPPING

    found: dict[str, dict[str, Any]] = {}
    for kind in closed_form.FORMS:
        if kind not in CONFIG_MAPPING:
            continue
        cls = CONFIG_MAPPING[kind]
        fields = {f.name: f.default for f in dataclasses.fields(cls)}
        read = {name: fields[name] for name in class_words.WORDS if name in fields}
        found[kind] = {
            "defaults": read,
            "aliases": dict(_alias(a, b, read) for a, b in cls.attribute_map.items()),
            "nullable": [name for name in read if _takes_null(cls, name)],
        }
    return found


def _alias(name: str, attribute: str, read: Mapping[str, Any]) -> tuple[str, str]:
    """Another name and the field it stands for, whichever of the two the class declares."""
    return (name, attribute) if attribute in read else (attribute, name)


def _takes_null(cls: Any, name: str) -> bool:
    experts = dict.fromkeys(class_words.THEIR_NAMES["num_experts"], 4)
    others = {"num_experts_per_tok": 2, "n_shared_experts": 1, "n_routed_experts": 4}
    own = {f.name for f in dataclasses.fields(cls)}
    raw = {key: value for key, value in (SIZES | experts | others).items() if key in own}
    try:
        with quietly():
            construct(raw | {"model_type": cls.model_type, name: None})
    except ValueError:
        return False
    return True


def main() -> None:
    """Print the table, or write the defaults."""
    if "--defaults" in sys.argv:
        text = json.dumps(class_defaults(), indent=1)
        class_words.DEFAULTS.write_text(text + "\n")
        return
    rows = table()
    for kind, verdict_, said in rows:
        print(f"{kind:28} {verdict_:8} {said}")
    print(Counter(verdict_ for _, verdict_, _ in rows))


if __name__ == "__main__":
    main()
