"""Which rows are mixtures, and their axes: as given, or from the counts and sizes of experts.

A dense row has A = 1 and S = 0; its G says nothing.

    A, G, S   activation ratio, granularity, shared-expert ratio
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from moe_leverage.accounting import count_forward_flops, count_parameters
from moe_leverage.config import ModelConfig
from moe_leverage.rules import require
from moe_leverage.your_runs.columns import MOE_WORDS
from moe_leverage.your_runs.plausible import refuse_row

COUNTED_WITHOUT = {  # columns that follow from a shape, and what each leaves out
    "flops_per_token": "logits",
    "active_params": "the vocabulary",
    "total_params": "the vocabulary",
}
SHAPES = ("vocab_size", "num_layers", "d_model", "num_heads", "sequence_length")
AXIS_TOLERANCE = 0.05  # by which a given axis may differ from the one its sizes give
EXPERT_COLUMNS = ("is_moe", "num_experts", "activation_ratio")


def complete_axes(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Adds A, G and S, from their columns or from counts of experts; NaN where nothing tells."""
    moe = frame["is_moe"]
    derived = _axes_of_experts(frame)
    for name, dense in (("activation_ratio", 1.0), ("granularity", 2.0), ("shared_ratio", 0.0)):
        given = frame[name] if name in frame else pd.Series(np.nan, index=frame.index)
        if name in derived:
            counted = derived[name]
            differs = moe & given.notna() & ((given / counted - 1).abs() > AXIS_TOLERANCE)
            rule = f"differs from what the sizes give by over {AXIS_TOLERANCE:.0%}"
            refuse_row(differs, name, given, rule)
            given = given.fillna(counted)
        if name == "shared_ratio" and given[moe].isna().all():
            notes.append("shared_ratio is not given: taken as 0 throughout")
            given = given.fillna(0.0)
        if moe.any() and given[moe].isna().all():
            notes.append(f"{name} is not given: leverage is told without it, its laws are not")
        else:
            rule = "an MoE row needs it where others have it, or the sizes of its experts"
            refuse_row(moe & given.isna(), name, given, rule)
        frame = frame.assign(**{name: given.where(moe, dense)})
    variant = frame["variant"] if "variant" in frame else pd.Series("", index=frame.index)
    return frame.assign(variant=variant.fillna("").where(moe, ""))


def is_mixture(frame: pd.DataFrame, notes: list[str]) -> pd.Series:
    """Which rows are mixtures: as a column says, else by their experts or their A."""
    if "is_moe" in frame:
        known = frame["is_moe"].str.lower().map(MOE_WORDS)
        rule = f"must be one of {', '.join(filter(None, MOE_WORDS))}"
        refuse_row(known.isna(), "is_moe", frame["is_moe"], rule)
        return known.astype(bool)
    if "num_experts" in frame:
        notes.append("rows with num_experts above 1 are MoE, the others dense")
        return frame["num_experts"].fillna(0) > 1
    advice = (
        "nothing tells dense from MoE rows; name a column of is_moe, num_experts or "
        "activation_ratio with --column, or say --dense-only or --moe-only"
    )
    require("activation_ratio" in frame, "is_moe", None, advice)
    notes.append("rows with activation_ratio below 1 are MoE, the others dense")
    return frame["activation_ratio"].fillna(1.0) < 1


def _axes_of_experts(frame: pd.DataFrame) -> dict[str, pd.Series]:
    derived = {}
    if {"num_experts", "num_active_experts"} <= set(frame):
        shared = _shared_experts(frame)
        top_k = frame["num_active_experts"]
        excess = frame["is_moe"] & (top_k > frame["num_experts"])
        refuse_row(excess, "num_active_experts", top_k, "exceeds num_experts")
        own = pd.Series(0.0, index=frame.index) if shared is None else shared
        derived["activation_ratio"] = (top_k + own) / (frame["num_experts"] + own)
        if shared is not None:
            derived["shared_ratio"] = shared / (top_k + shared)
    if {"d_model", "d_expert"} <= set(frame):
        derived["granularity"] = 2 * frame["d_model"] / frame["d_expert"].replace(0.0, np.nan)
    return derived


def _shared_experts(frame: pd.DataFrame) -> pd.Series | None:
    """Shared experts in widths of routed ones, counted or from the width of the shared block."""
    if "num_shared_experts" in frame:
        return frame["num_shared_experts"].fillna(0)
    if {"shared_width", "d_expert"} <= set(frame):
        share = frame["shared_width"] / frame["d_expert"].replace(0.0, np.nan)
        return share.fillna(0.0)
    return None


def count_shapes(frame: pd.DataFrame, notes: list[str]) -> tuple[pd.Series, pd.DataFrame]:
    """Exact forward FLOPs of a token, and the counts of `COUNTED_WITHOUT`, once for each shape."""
    names = [*SHAPES, "num_kv_heads", "d_ffn", "num_experts", "num_active_experts",
             "num_shared_experts", "d_expert", "num_dense_layers"]  # fmt: skip
    shapes = frame[[name for name in names if name in frame]].fillna(0).astype(int)
    if "num_kv_heads" not in shapes:
        shapes["num_kv_heads"] = shapes["num_heads"]
        notes.append("num_kv_heads is not given: taken as num_heads")
    experts = [name for name in names[7:] if name in shapes]
    shapes.loc[~frame["is_moe"], experts] = 0
    known: dict[tuple[int, ...], tuple[float, ...]] = {}
    counts = np.empty((len(shapes), 1 + len(COUNTED_WITHOUT)))
    for place, values in enumerate(shapes.itertuples(index=False)):
        if tuple(values) not in known:
            fields = dict(zip(shapes.columns, (int(v) for v in values), strict=True))
            length = fields.pop("sequence_length")
            try:
                model = ModelConfig(**fields)  # type: ignore[arg-type]
                forward, params = count_forward_flops(model, length), count_parameters(model)
            except ValueError as error:
                raise ValueError(f"row {shapes.index[place]}, {error}") from None
            inner = forward.non_embedding, params.active_non_vocabulary, params.non_vocabulary
            known[tuple(values)] = (forward.total, *inner)
        counts[place] = known[tuple(values)]
    totals = pd.Series(counts[:, 0], index=frame.index)
    return totals, pd.DataFrame(counts[:, 1:], index=frame.index, columns=list(COUNTED_WITHOUT))
