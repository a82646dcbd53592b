"""A config refuses what cannot be built, and its identity and JSON do not drift."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_leverage.axes import whole_experts
from moe_leverage.config import (
    LING2_ROUTING,
    LatentAttentionConfig,
    ModelConfig,
    RoutingConfig,
    RunConfig,
)
from moe_leverage.rules import read_object, shown

SIZES = {"vocab_size": 1024, "num_layers": 4, "d_model": 64, "num_heads": 4, "num_kv_heads": 2}
EXPERTS = {"num_experts": 64, "num_active_experts": 2, "num_shared_experts": 1, "d_expert": 64}
RUN = {"corpus": "smoke", "sequence_length": 256, "batch_sequences": 8, "num_steps": 100}


def dense() -> ModelConfig:
    return ModelConfig(**SIZES, d_ffn=192)


def moe(**changes: object) -> ModelConfig:
    return ModelConfig(**(SIZES | EXPERTS | changes))


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"num_heads": 5, "num_kv_heads": 1}, "d_model", 64),
        ({"num_kv_heads": 3}, "num_kv_heads", 3),
        ({"num_active_experts": 65}, "num_active_experts", 65),
        ({"num_active_experts": 0}, "num_active_experts", 0),
        ({"d_shared": 64, "num_shared_experts": 0}, "d_shared", 64),
        ({"num_dense_layers": 4, "d_ffn": 64}, "num_dense_layers", 4),
        ({"num_dense_layers": 1}, "d_ffn", 0),
        ({"num_experts": 0}, "num_active_experts", 2),
        ({"vocab_size": 0}, "vocab_size", 0),
        ({"d_model": 64.0}, "d_model", 64.0),
        ({"rope_fraction": float("nan")}, "rope_fraction", float("nan")),
        ({"num_experts": 60, "routing": LING2_ROUTING}, "num_experts", 60),
        (
            {"num_active_experts": 33, "routing": LING2_ROUTING},
            "num_active_experts",
            33,
        ),
    ],
)
def test_impossible_models_name_field_and_value(changes, field, value):
    with pytest.raises(ValueError, match=rf"^{field} = {value!r}: ".replace(".", r"\.")):
        moe(**changes)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": 11.0}, "learning_rate"),
        ({"merge_checkpoints": 11, "merge_interval": 10}, "merge_checkpoints"),
        ({"merge_windows": 2}, "merge_windows"),  # of nothing
        ({"merge_checkpoints": 6, "merge_windows": 3}, "merge_windows"),
        ({"merge_checkpoints": 4, "merge_windows": 3}, "merge_windows"),
        ({"merge_checkpoints": 4, "merge_windows": 10**9}, "merge_windows"),
    ],
)
def test_impossible_runs_name_the_field(changes, field):
    with pytest.raises(ValueError, match=f"^{field} = "):
        RunConfig(**({"model": moe(), "learning_rate": 1e-3} | RUN | changes))


def test_json_round_trip_is_exact_and_strict():
    latent = LatentAttentionConfig(kv_rank=16, d_head_nope=16, d_head_rope=8, d_head_value=16)
    run = RunConfig(
        model=moe(routing=LING2_ROUTING, latent_attention=latent), learning_rate=1e-3, **RUN
    )
    values = json.loads(json.dumps(run.to_dict()))
    assert RunConfig.from_dict(values) == run
    with pytest.raises(ValueError, match=r"RunConfig\.speed = 3: is not a field"):
        RunConfig.from_dict(values | {"speed": 3})
    with pytest.raises(ValueError, match=r"ModelConfig\.d_model = '64': must be of type int"):
        RunConfig.from_dict(values | {"model": values["model"] | {"d_model": "64"}})
    with pytest.raises(ValueError, match=r"RoutingConfig\.score = 'max': must be one of"):
        RoutingConfig.from_dict({"score": "max"})
    del values["corpus"]
    with pytest.raises(ValueError, match=r"RunConfig\.corpus = None: is required"):
        RunConfig.from_dict(values)


@pytest.mark.parametrize(("stages", "is_read"), [(30, True), (31, False), (2_000, False)])
def test_runs_within_runs_are_read_up_to_a_depth_and_refused_beyond(stages, is_read):
    plain = RunConfig(model=dense(), learning_rate=1e-3, **RUN).to_dict()
    nested = plain
    for _ in range(stages):
        nested = plain | {"parents": [nested]}
    if not is_read:
        with pytest.raises(ValueError, match="more than 64 objects and lists within each other"):
            RunConfig.from_dict(nested)
        return
    run = RunConfig.from_dict(nested)
    assert RunConfig.from_dict(run.to_dict()).identity() == run.identity()
    assert run.with_seed(3).parents[0].seed == 3


def test_identities_are_stable_and_tell_runs_apart():
    run = RunConfig(model=dense(), learning_rate=1e-3, **RUN)
    assert run.identity() == "e6240f5da7cc"  # a new value here orphans every run of the ledger
    assert run.with_seed(1).identity() != run.identity()
    assert replace(run, model=moe()).identity() != run.identity()
    assert replace(run, weight_decay=0.1).identity() == run.identity()


@pytest.mark.parametrize("granularity", [2, 4, 6, 8, 12, 16])
def test_axes_give_the_rows_of_table_8(granularity):
    half = granularity // 2
    assert whole_experts(activation_ratio=3 / 65, granularity=granularity, d_model=384) == {
        "num_experts": 64 * half,
        "num_active_experts": 2 * half,
        "num_shared_experts": half,
        "d_expert": 768 // granularity,
    }


@given(st.integers(1, 12), st.integers(0, 4), st.integers(1, 256), st.sampled_from([8, 16, 32, 64]))
def test_axes_and_counts_are_inverse(active, shared, experts, d_expert):
    shape = moe(
        num_experts=max(experts, active),
        num_active_experts=active,
        num_shared_experts=shared,
        d_expert=d_expert,
    )
    again = whole_experts(
        activation_ratio=shape.activation_ratio,
        granularity=shape.granularity,
        shared_ratio=shape.shared_ratio,
        active_ffn_ratio=(active + shared) * d_expert / 64,
        d_model=64,
    )
    assert again == {name: getattr(shape, name) for name in again}


def test_experts_come_in_widths_that_can_be_multiplied():
    axes = {"activation_ratio": 3 / 65, "granularity": 6, "d_model": 64}
    assert whole_experts(**axes)["d_expert"] == 21
    assert whole_experts(**axes, multiple=4) == {  # and their number follows the width
        "num_experts": 214,
        "num_active_experts": 7,
        "num_shared_experts": 3,
        "d_expert": 20,
    }


@pytest.mark.parametrize(
    ("axis", "value"), [("activation_ratio", 1.1), ("granularity", 0), ("shared_ratio", 1)]
)
def test_axes_out_of_range_are_refused(axis, value):
    axes = {"activation_ratio": 0.1, "granularity": 2, "d_model": 64} | {axis: value}
    with pytest.raises(ValueError, match=f"^{axis} = {value}: must be"):
        whole_experts(**axes)


NO_NUMBERS = [float("nan"), float("inf"), -float("inf"), 10**400, -(10**400), -(2**63), True, "1"]
NUMBERS_OF = {
    RunConfig: {"model": dense(), "learning_rate": 1e-3} | RUN,
    ModelConfig: SIZES | EXPERTS,
    RoutingConfig: {},
}


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: str(value)[:8])
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, f.name) for kind in NUMBERS_OF for f in fields(kind) if f.type in ("int", "float")],
)
def test_no_field_takes_what_no_machine_holds(kind, name, value):
    given = NUMBERS_OF[kind]
    for build in (lambda values: kind(**values), kind.from_dict):
        values = given if build != kind.from_dict else kind(**given).to_dict()
        with pytest.raises(ValueError, match=rf"^({kind.__name__}\.)?{name} = ") as refused:
            build(values | {name: value})
        assert len(str(refused.value)) <= 200


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_a_value_is_shown_in_one_line_of_sixty_characters(value):
    text = shown(value)
    assert len(text) <= 60
    assert text.isprintable()


def test_a_value_without_an_end_is_shown():
    ring: list[object] = []
    ring.append(ring)
    deep: list[object] = []
    for _ in range(10**5):
        deep = [deep]
    for value in (ring, deep, "x" * 10**6, 10**10_000, {"a": [10**5000]}, list(range(10**6))):
        assert len(shown(value)) <= 60


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[" * 10**6, b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":1e999}', b"[1]", b"3"],
)
def test_a_file_that_is_no_object_is_named(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^config = '.*': (not JSON|must be a JSON object)"):
        read_object(path, "config")
    for other in (tmp_path, tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(ValueError, match=r"^config = '.*': is not a file"):
            read_object(other, "config")
