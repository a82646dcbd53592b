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

from moe_leverage.design import closed_form, huggingface
from moe_leverage.design.built import construct, quietly

EXACT, OFF, REFUSED = "exact", "off", "refused"
FUZZED = 80  # configs a type
DROPPED, RESPELLED, NULL = 0.25, 0.15, 0.04  # chances of a key
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
    kinds = [kind for kind in closed_form.FORMS if kind not in closed_form.REPOSITORY]
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
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    kinds = sorted({config.model_type for config in MODEL_FOR_CAUSAL_LM_MAPPING})
    return [(kind, *verdict({"model_type": kind})) for kind in kinds]


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
    with quietly():
        config, model = construct(raw)
    if config.get_text_config(decoder=True) is config:
        held = list(model.parameters())
    else:
        head = model.get_output_embeddings()
        held = [*model.get_decoder().parameters(), *(head.parameters() if head else ())]
    return sum(p.numel() for p in {id(p): p for p in held}.values() if p.requires_grad)


def fuzzed(kind: str, number: int) -> dict[str, Any]:
    """A config of this type with sizes at random, keys dropped, spelled otherwise or set to null.

    >>> fuzzed("llama", 0)["model_type"]
    'llama'
    """
    draw = random.Random(f"{kind} {number}")
    raw: dict[str, Any] = {"model_type": kind}
    table = closed_form.class_tables()[kind]
    names = {value: key for key, value in table["aliases"].items()}
    for name in table["defaults"]:
        if name not in CHOICES or draw.random() < DROPPED:
            continue
        spelled = name
        if draw.random() < RESPELLED:
            others = [g for g in closed_form.THEIR_NAMES.values() if name in g]
            spelled = draw.choice([names.get(name, name), *(others[0] if others else ())])
        raw[spelled] = None if draw.random() < NULL else draw.choice(CHOICES[name])
    if draw.random() < RESPELLED:
        raw["head_dim"] = draw.choice(CHOICES["head_dim"])
    return raw


def fuzz(kind: str, number: int) -> tuple[str, str]:
    """The verdict on one such config; what the library cannot build is no number to differ from."""
    raw = fuzzed(kind, number)
    try:
        counted = huggingface.read(raw).anatomy.parameters.total
    except ValueError as error:
        return REFUSED, str(error)
    try:
        wanted = built_total(raw)
    except ValueError as error:
        return OFF, f"{counted:,}, but the library refuses: {error}: {raw}"
    return (EXACT, "") if counted == wanted else (OFF, f"{counted:,} for {wanted:,}: {raw}")


def class_defaults() -> dict[str, dict[str, Any]]:
    """Of each type with a closed form: defaults of what it reads, other names, what may be null."""
    from transformers import CONFIG_MAPPING

    found: dict[str, dict[str, Any]] = {}
    for kind in closed_form.FORMS:
        if kind not in CONFIG_MAPPING:
            continue
        cls = CONFIG_MAPPING[kind]
        fields = {f.name: f.default for f in dataclasses.fields(cls)}
        read = {name: fields[name] for name in closed_form.WORDS if name in fields}
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
    experts = dict.fromkeys(closed_form.THEIR_NAMES["num_experts"], 4)
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
        closed_form.DEFAULTS.write_text(text + "\n")
        return
    rows = table()
    for kind, verdict_, said in rows:
        print(f"{kind:28} {verdict_:8} {said}")
    print(Counter(verdict_ for _, verdict_, _ in rows))


if __name__ == "__main__":
    main()
