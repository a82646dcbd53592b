"""A model counted on what transformers builds from its config, on the meta device.

No weights, no network, no code from a repository: the config class of the library reads the file,
its model class is built without storage, and parameters and matrix products are read off it.

    E    leading dimension of the tensors under `experts`
    E_a  experts that the router of a layer chooses
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from moe_leverage.design.anatomy import STATE_FLOPS, Anatomy
from moe_leverage.design.later import loaded_later
from moe_leverage.design.mixers import mixers_of
from moe_leverage.design.parts import (
    dense_width,
    experts_of,
    first_whole,
    parameters_of,
    parts_of,
    products_of,
)
from moe_leverage.design.words import is_structural
from moe_leverage.modules import collector_paused
from moe_leverage.rules import require

MOST_BUILT_LAYERS = 1_000  # each is some twenty objects, and takes milliseconds
INSTALL = "needs transformers, which is not installed: pip install 'moe-leverage[hf]'"
# What the library imports to run and train models: a quarter of the time that one takes to count.
TO_RUN = ("torch._dynamo", "scipy.optimize")
# Where weights come from, how they are stored and run: nothing that decides a shape.
NOT_SHAPE = frozenset(
    ("auto_map", "quantization_config", "compression_config", "dtype", "torch_dtype")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """What a file says once the library has read and built it."""

    anatomy: Anatomy
    notes: tuple[str, ...]
    unused: tuple[str, ...]  # keys of the file that change neither the config nor the model


@collector_paused()  # the library is thousands of modules, and a model as many of its own
def build(raw: Mapping[str, Any]) -> Built:
    """The anatomy of the language model that transformers builds from a config.

    Raises ValueError, in one line, where the library is missing, does not know the type or cannot
    build what the file says.

    >>> sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "head_dim": 16,
    ...     "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48}
    >>> build({"model_type": "gemma2"} | sizes).anatomy.parameters.total
    17696
    """
    version = _version(raw)
    _require_few_layers(raw)
    with quietly():
        config, model = construct(raw)
        unused = _unused(raw, config, model)
        modules, text, notes = _language(config, model)
        embedding = model.get_input_embeddings().weight
        mixers, said = mixers_of(modules, text)
        parts = parts_of(modules, _head(model))
        d_model = first_whole(text, "hidden_size", "n_embd", "d_model") or embedding.shape[1]
        experts, shares = experts_of(parts, text, d_model)
    anatomy = Anatomy(
        way=f"built by transformers {version}",
        d_model=d_model,
        vocab_size=int(embedding.shape[0]),
        parameters=parameters_of(parts, shares),
        products=products_of(parts, shares, sum(mixer.layers * mixer.state for mixer in mixers)),
        mixers=mixers,
        experts=experts,
        d_ffn=dense_width(parts),
    )
    if any(mixer.state for mixer in mixers):
        notes.append(f"state_updates is an estimate: {STATE_FLOPS} FLOPs a number of each state")
    return Built(anatomy=anatomy, notes=(*notes, *said), unused=unused)


def construct(raw: Mapping[str, Any]) -> tuple[Any, Any]:
    """The library's config and model of a file, the model on the meta device.

    Raises ValueError in one line whatever the library raises.
    """
    import torch
    import transformers

    kept = {k: v for k, v in raw.items() if k not in NOT_SHAPE and not k.startswith("_")}
    kind = kept.pop("model_type")
    try:
        with loaded_later(*TO_RUN), torch.device("meta"):
            config = transformers.AutoConfig.for_model(kind, **kept)
            return config, _model(transformers, config)
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        rule = f"transformers {transformers.__version__} cannot build it: {text[:300]}"
        raise ValueError(f"model_type = {kind!r}: {rule}") from error


def _require_few_layers(raw: Mapping[str, Any]) -> None:
    """Refuse a model, or a tower of one, whose layers would be built for minutes."""
    for name, value in raw.items():
        if isinstance(value, Mapping):
            _require_few_layers(value)
        elif isinstance(value, int) and ("layer" in name or name == "depth"):
            rule = f"exceeds the {MOST_BUILT_LAYERS} layers that are built to be counted"
            require(value <= MOST_BUILT_LAYERS, name, value, rule)


def _model(transformers: Any, config: Any) -> Any:
    """The causal language model of a config, or the multimodal model that holds one."""
    causal = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    several = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if config.get_text_config(decoder=True) is not config and type(config) in several:
        try:
            return several[type(config)]._from_config(config)
        except ImportError:  # a tower of vision from a library that is not here
            text = config.get_text_config(decoder=True)
            text.tie_word_embeddings = config.tie_word_embeddings
            return causal[type(text)]._from_config(text)
    if type(config) not in causal:
        raise ValueError("it has no causal language model of this type")
    return transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _version(raw: Mapping[str, Any]) -> str:
    """The version of the library; ValueError where it is missing or does not know the type."""
    kind = raw.get("model_type")
    try:
        import transformers
    except ImportError as error:
        raise ValueError(f"model_type = {kind!r}: {INSTALL}") from error
    if kind not in transformers.CONFIG_MAPPING:
        rule = (
            f"is no type that transformers {transformers.__version__} knows, and code from a "
            f"repository is not run"
        )
        raise ValueError(f"model_type = {kind!r}: {rule}")
    return str(transformers.__version__)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the library's advice on how to run a model."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _head(model: Any) -> Any:
    return model.get_output_embeddings()


def _language(config: Any, model: Any) -> tuple[dict[str, Any], Any, list[str]]:
    """The modules of the language model, its config, and what of a multimodal model is left out."""
    text = config.get_text_config(decoder=True)
    everything = dict(model.named_modules(remove_duplicate=False))
    if text is config:
        return everything, config, []
    decoder, head = model.get_decoder(), _head(model)
    chosen = {path: module for path, module in everything.items() if module in (decoder, head)}
    kept = {
        path: module
        for path, module in everything.items()
        if any(path == root or path.startswith(f"{root}.") for root in chosen)
    }
    inside = {id(p) for root in chosen.values() for p in root.parameters()}
    outside = sum(p.numel() for p in model.parameters() if id(p) not in inside)
    left = f"; {outside / 1e9:.3g} B parameters of the rest are left out" if outside else ""
    return kept, text, [f"text_config: the language model alone is counted{left}"]


def _unused(raw: Mapping[str, Any], config: Any, model: Any) -> tuple[str, ...]:
    """Keys of a shape that neither the config class nor the model class speaks of.

    A class takes what it does not know without a word; some of it, older spellings, it reads.
    """
    strange = [key for key in unknown(raw, config) if is_structural(key)]
    modules = (inspect.getmodule(type(entry)) for entry in (config, model))
    source = "\n".join(inspect.getsource(module) for module in modules if module and strange)
    return tuple(key for key in strange if not re.search(rf"\b{re.escape(key)}\b", source))


def unknown(raw: Mapping[str, Any], config: Any) -> list[str]:
    """Keys that are neither fields of the config class nor other names of them."""
    known = {f.name for f in fields(config)} | set(config.attribute_map) | {"model_type"}
    return [key for key in raw if key not in known]
