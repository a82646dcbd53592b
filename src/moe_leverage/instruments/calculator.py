"""What the calculator page needs, as plain JSON values: laws, their ranges, samples and presets.

The page repeats the law (Equation 13) and the count of Appendix C in JavaScript; every number it
starts from is written here, so nothing is typed twice.

    A, G, C    activation ratio, granularity, training compute in FLOPs
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moe_leverage import paths
from moe_leverage.accounting import TRAINING_PASSES, count_forward_flops
from moe_leverage.config import ModelConfig
from moe_leverage.design import huggingface
from moe_leverage.theory.law import Law
from moe_leverage.theory.laws import PUBLISHED

JOINT_FIT = paths.DATA / "fits" / "joint.json"
NUM_SAMPLES = 400  # bootstrap samples of the measured law that the page carries
DEFAULT_SEQUENCE_LENGTH = 4096  # the paper's (Appendix B), where a model's own is not known
POWER_LAWS = ("learning_rate", "batch_tokens", "moe_model", "moe_tokens")
EXAMPLES = (  # Section 4.2.2 and Figure 1; Section 4.1, the baseline architecture
    ("Section 4.2.2: EL > 7", {"C": 1e22, "A": 0.031, "G": 12}),
    ("The same at 1e20", {"C": 1e20, "A": 0.031, "G": 12}),
    ("Baseline, 2 of 64 and one shared", {"C": 1e20, "A": 3 / 65, "G": 2}),
)
SHAPE_FIELDS = (
    "num_layers",
    "num_dense_layers",
    "d_model",
    "num_heads",
    "num_kv_heads",
    "d_head",
    "num_experts",
    "num_active_experts",
    "num_shared_experts",
    "d_expert",
    "d_ffn",
    "vocab_size",
)


def payload(joint_fit: Path = JOINT_FIT) -> dict[str, Any]:
    """Everything the page is given; `measured` and `samples` are None until a joint fit exists.

    >>> sorted(payload())
    ['domain', 'laws', 'measured', 'presets', 'published', 'samples']
    """
    measured, samples = _measured(joint_fit)
    return {
        "published": _coefficients(PUBLISHED.joint),
        "domain": {name: list(PUBLISHED.joint.domain[name]) for name in PUBLISHED.joint.inputs},
        "measured": measured,
        "samples": samples,
        "laws": {name: _coefficients(getattr(PUBLISHED, name)) for name in POWER_LAWS},
        "presets": [{"name": name, "axes": axes} for name, axes in EXAMPLES] + _open_models(),
    }


def script(joint_fit: Path = JOINT_FIT) -> str:
    """The payload as a script, which works from a file where fetching would not."""
    values = json.dumps(payload(joint_fit), separators=(",", ":"), allow_nan=False)
    return f"window.moeLeverage = {{ data: {values} }};\n"


def _coefficients(law: Law) -> dict[str, float]:
    return dict(zip(law.coefficient_names, map(float, law.coefficients), strict=True))


def _measured(path: Path) -> tuple[dict[str, float] | None, list[dict[str, float]] | None]:
    if not path.is_file():
        return None, None
    from moe_leverage.statistics.fitting import Fit  # its scipy is needed only where a fit exists

    fit = Fit.load(path)
    step = max(1, len(fit.samples) // NUM_SAMPLES)
    rows = fit.law.from_theta(fit.samples[::step][:NUM_SAMPLES])
    names = fit.law.coefficient_names
    samples = [dict(zip(names, map(float, row), strict=True)) for row in rows]
    return _coefficients(fit.law), samples


def _open_models() -> list[dict[str, Any]]:
    """A preset for each model whose training tokens are public."""
    models = [huggingface.load(name) for name in huggingface.names()]
    return [_preset(m) for m in models if m.model.is_moe and "training_tokens" in m.published]


def _preset(open_model: huggingface.OpenModel) -> dict[str, Any]:
    model = open_model.model
    tokens = float(open_model.published["training_tokens"])
    sequence = int(open_model.published.get("sequence_length", DEFAULT_SEQUENCE_LENGTH))
    if _is_counted_by_the_page(model):
        shape = {name: getattr(model, name) for name in SHAPE_FIELDS}
        return {"name": open_model.name, "shape": _run_of(shape, sequence, tokens)}
    flops = TRAINING_PASSES * count_forward_flops(model, sequence).total * tokens
    axes = {"C": flops, "A": model.activation_ratio, "G": model.granularity}
    return {"name": open_model.name, "axes": axes}


def _run_of(shape: dict[str, int], sequence: int, tokens: float) -> dict[str, float]:
    return shape | {"sequence_length": sequence, "num_tokens": tokens}


def _is_counted_by_the_page(model: ModelConfig) -> bool:
    """The page counts matrices of grouped-query attention, SwiGLU experts and untied logits."""
    return (
        model.latent_attention is None
        and model.num_mtp_layers == 0
        and not (model.ffn_bias or model.tie_embeddings)
        and model.d_shared == model.num_shared_experts * model.d_expert
    )
