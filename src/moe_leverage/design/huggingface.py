"""Models read from the configs that people have, by a closed form or by building them.

Stands beside Table 3: the shapes of published models lie in `data/models` in the form of Hugging
Face, each with its source and the counts that its makers print.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moe_leverage import paths
from moe_leverage.config import ModelConfig
from moe_leverage.design import closed_form, files
from moe_leverage.design.anatomy import Anatomy, of_shape
from moe_leverage.design.foreign import in_hf_words
from moe_leverage.design.words import expert_words, says_dense
from moe_leverage.rules import refuse, require

MODELS = paths.DATA / "models"
# What the gallery's files say beside the config.
OURS = ("published", "source")


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenModel:
    """A model read from a config: what it is made of, what was assumed, what its makers print."""

    name: str
    anatomy: Anatomy
    shape: ModelConfig | None = None  # where the closed forms hold it
    assumptions: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()  # keys of a shape that had no part in the count
    published: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> ModelConfig:
        """The shape; ValueError if the model could only be built."""
        rule = "has no closed form: it is counted as built"
        require(self.shape is not None, "model", self.name, rule)
        assert self.shape is not None
        return self.shape


def of_model(name: str, model: ModelConfig) -> OpenModel:
    """A shape of our own as an open model."""
    return OpenModel(name=name, anatomy=of_shape(model), shape=model)


def names() -> list[str]:
    """The models of `data/models`, by name.

    >>> "Mixtral-8x7B" in names()
    True
    """
    return sorted(path.stem for path in MODELS.glob("*.json"))


def closed_names() -> list[str]:
    """Those of them that closed forms count, for what must do without transformers."""
    kinds = {name: files.parse(MODELS / f"{name}.json")["model_type"] for name in names()}
    return [name for name, kind in kinds.items() if kind in closed_form.FORMS]


def load(source: str | Path, *, vocab_size: int | None = None) -> OpenModel:
    """The model of a file, a folder or a name of `data/models`, with another vocabulary if given.

    Raises ValueError naming the field, its value and the rule it breaks; OSError if unreadable.

    >>> load("mixtral-8x7b").model.num_experts
    8
    """
    path = _find(str(source))
    raw = files.parse(path)
    found = read(raw, vocab_size=vocab_size)
    published = raw.get("published", {})
    require(isinstance(published, Mapping), "published", published, "must be an object")
    name = path.parent.name if path.name in files.IN_A_FOLDER else path.stem
    return replace(found, name=name or path.stem, published=published)


def read(raw: Mapping[str, Any], *, vocab_size: int | None = None) -> OpenModel:
    """The model that a config describes: by our closed form of its type, or as it is built.

    >>> read({"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64,
    ...     "num_attention_heads": 4, "intermediate_size": 96}).anatomy.parameters.total
    4165952
    """
    raw = {key: value for key, value in raw.items() if key not in OURS}
    if vocab_size is not None:
        require(vocab_size > 0, "vocab", vocab_size, "must be a whole number above 0")
        raw = _with_vocabulary(raw, vocab_size)
    words, notes = in_hf_words(raw)
    kind = words["model_type"]
    if kind in closed_form.FORMS:
        try:
            found = closed_form.read(words)
        except closed_form.NotCovered:
            return _built(words, notes)
        return OpenModel(
            name=kind,
            anatomy=of_shape(found.model, found.windows),
            shape=found.model,
            assumptions=(*notes, *found.notes),
            unused=found.unused,
        )
    return _built(words, notes)


def printed_counts(found: OpenModel) -> dict[str, int]:
    """Every quantity that a maker prints; multi-token prediction is in none of them.

    >>> printed_counts(load("Mixtral-8x7B"))["active"]
    12879925248
    """
    count = found.anatomy.parameters
    return {
        "total": count.total,
        "active": count.active,
        "active_without_embedding": count.active - count.embedding,
        "non_vocabulary": count.non_vocabulary,
        "active_non_vocabulary": count.active_non_vocabulary,
    }


def _built(raw: Mapping[str, Any], notes: tuple[str, ...]) -> OpenModel:
    from moe_leverage.design.built import build

    found = build(raw)
    text = raw["text_config"] if isinstance(raw.get("text_config"), Mapping) else raw
    said = expert_words(text)
    if not found.anatomy.is_moe and said and not says_dense(text):
        rule = "speaks of experts, but the model that transformers builds has none"
        refuse(said[0], text[said[0]], rule)
    return OpenModel(
        name=str(raw["model_type"]),
        anatomy=found.anatomy,
        assumptions=(*notes, *found.notes),
        unused=found.unused,
    )


def _with_vocabulary(raw: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    nested = raw.get("text_config")
    if isinstance(nested, Mapping) and "vocab_size" not in raw:
        return {**raw, "text_config": {**nested, "vocab_size": vocab_size}}
    own = {"padded_vocab_size": vocab_size} if "padded_vocab_size" in raw else {}
    return {**raw, "vocab_size": vocab_size, "pad_token_id": 0, **own}


def _find(source: str) -> Path:
    by_name = {name.lower(): name for name in names()}
    if source.lower() in by_name and not Path(source).is_file():
        return MODELS / f"{by_name[source.lower()]}.json"
    path = files.find(source)
    rule = f"is neither a file nor one of {', '.join(names())}"
    require(path.is_file(), "CONFIG", source, rule)
    return path
