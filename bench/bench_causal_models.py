"""Every causal language model of the pinned transformers, counted and built: exact, off, refused.

python bench/bench_causal_models.py             the table
python bench/bench_causal_models.py --defaults  write data/architectures.json anew

A type is exact if what `explain` counts of its default config is what the library builds, off if it
is another number, and refused with the reason if the library cannot build its own defaults.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from typing import Any

from moe_leverage.design import closed_form, huggingface
from moe_leverage.design.built import construct, quietly

EXACT, OFF, REFUSED = "exact", "off", "refused"
SIZES = {  # of a small config from which one field at a time is set to null
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48,
}  # fmt: skip


def run() -> list[dict[str, Any]]:
    """One row: types that are off, of all there are."""
    start = time.perf_counter()
    verdicts = Counter(verdict for _, verdict, _ in table())
    return [
        {
            "name": "causal language models counted otherwise than built",
            "shape": f"{verdicts[EXACT]} exact, {verdicts[REFUSED]} refused, "
            f"{time.perf_counter() - start:.0f} s",
            "value": float(verdicts[OFF]),
            "unit": "types",
            "peer": "transformers, default configs",
            "ratio": None,
            "target": "0",
            "met": verdicts[OFF] == 0,
        }
    ]


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
    """Trained parameters of the language model that the library builds, by the library's own sum."""
    with quietly():
        config, model = construct(raw)
    if config.get_text_config(decoder=True) is config:
        held = list(model.parameters())
    else:
        head = model.get_output_embeddings()
        held = [*model.get_decoder().parameters(), *(head.parameters() if head else ())]
    return sum(p.numel() for p in {id(p): p for p in held}.values() if p.requires_grad)


def class_defaults() -> dict[str, dict[str, Any]]:
    """Of each type with a closed form: defaults of what it reads, other names, what may be null."""
    from transformers import CONFIG_MAPPING

    found: dict[str, dict[str, Any]] = {}
    for kind in closed_form.FORMS:
        if kind not in CONFIG_MAPPING:
            continue
        cls = CONFIG_MAPPING[kind]
        fields = {f.name: f.default for f in __import__("dataclasses").fields(cls)}
        read = {name: fields[name] for name in closed_form.WORDS if name in fields}
        found[kind] = {
            "defaults": read,
            "aliases": {a: b for a, b in cls.attribute_map.items() if b in read and a != b},
            "nullable": [name for name in read if _takes_null(cls, name)],
        }
    return found


def _takes_null(cls: Any, name: str) -> bool:
    with quietly():
        try:
            cls(**SIZES | {name: None})
        except Exception:
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
