"""The models that the calculator starts from, and the tables by which it reads a dropped config.

A model whose type has a closed form is sent as its config, which the page counts itself; one that
only transformers builds is sent as its numbers, from `data/instruments/built.json`, so that a page
is made without loading what builds models.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moe_leverage import paths
from moe_leverage.config import PAPER_SEQUENCE_LENGTH
from moe_leverage.design import class_words, closed_form, files, huggingface, words
from moe_leverage.instruments.scripts import assign

BUILT = paths.INSTRUMENTS / "built.json"


def payload() -> dict[str, Any]:
    """The gallery by name, and what `configs.js` needs of `design.closed_form`.

    >>> sorted(payload())
    ['models', 'tables']
    """
    return {"models": [_model(name) for name in huggingface.names()], "tables": tables()}


def script() -> str:
    """The payload as a script."""
    return assign("gallery", payload())


def tables() -> dict[str, Any]:
    """Classes, names and words, as `design.closed_form`, `design.class_words` and
    `design.words` have them."""
    return {
        "forms": {kind: dict(form) for kind, form in closed_form.FORMS.items()},
        "classes": class_words.class_tables(),
        "names": {ours: list(names) for ours, names in class_words.THEIR_NAMES.items()},
        "words": list(class_words.WORDS),
        "repository": list(class_words.REPOSITORY),
        "readAnyway": list(class_words.READ_ANYWAY),
        "noSizes": list(class_words.NO_SIZES),
        "expertWords": words.EXPERTS.pattern,
        "otherWords": words.OTHER.pattern,
        "numberOfExperts": list(words.NUMBER_OF_EXPERTS),
    }


def measure(name: str) -> dict[str, float]:
    """The numbers of a model that only transformers builds, counted at its sequence length."""
    found = huggingface.load(name)
    anatomy = found.anatomy
    length = int(found.published.get("sequence_length", PAPER_SEQUENCE_LENGTH))
    flops, count = anatomy.forward_flops(length), anatomy.parameters
    return {
        "A": anatomy.activation_ratio,
        "G": anatomy.granularity,
        "total": count.non_vocabulary,
        "active": count.active_non_vocabulary,
        "vocabulary": count.total - count.non_vocabulary,
        "flopsPerToken": flops.total,
        "nonEmbedding": flops.non_embedding,
    }


def built_names() -> list[str]:
    """The models of the gallery that have no closed form."""
    closed = set(huggingface.closed_names())
    return [name for name in huggingface.names() if name not in closed]


def write(path: Path = BUILT) -> None:
    """Count the built models anew; after a change of `data/models` or of how models are counted."""
    values = {name: measure(name) for name in built_names()}
    paths.write_atomically(path, json.dumps(values, indent=1) + "\n")


def _model(name: str) -> dict[str, Any]:
    raw = files.parse(huggingface.MODELS / f"{name}.json")
    published = raw.get("published", {})
    said: dict[str, Any] = {"name": name}
    if "training_tokens" in published:
        said["D"] = float(published["training_tokens"])
    said["sequence_length"] = int(published.get("sequence_length", PAPER_SEQUENCE_LENGTH))
    if raw["model_type"] in closed_form.FORMS:
        config = {key: value for key, value in raw.items() if key not in huggingface.OURS}
        return said | {"config": config}
    return said | {"counts": json.loads(BUILT.read_text("utf-8"))[name]}
