"""Both ends of the schedule, its shape, and the checkpoints that are merged."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_leverage.config import ModelConfig, RunConfig
from moe_leverage.training.schedule import (
    DECAYS,
    learning_rate_multiplier,
    merge_windows,
    merged_steps,
    phase_steps,
)

MODEL = ModelConfig(vocab_size=16, num_layers=1, d_model=8, num_heads=2, num_kv_heads=1, d_ffn=16)
RUN = RunConfig(
    model=MODEL,
    corpus="smoke",
    sequence_length=8,
    batch_sequences=2,
    num_steps=100,
    learning_rate=1e-3,
)


def rates(run):
    return np.array([learning_rate_multiplier(step, run) for step in range(run.num_steps)])


@given(
    num_steps=st.integers(2, 300),
    decay=st.sampled_from([name for name in DECAYS if name != "none"]),
    decay_fraction=st.floats(0, 1),
    warmup_fraction=st.floats(0, 1),
    min_warmup_steps=st.integers(0, 400),
    floor=st.floats(0.01, 1),
)
def test_both_ends_are_right(
    num_steps, decay, decay_fraction, warmup_fraction, min_warmup_steps, floor
):
    run = dataclasses.replace(
        RUN,
        num_steps=num_steps,
        decay=decay,
        decay_fraction=decay_fraction,
        warmup_fraction=warmup_fraction,
        min_warmup_steps=min_warmup_steps,
        final_rate_fraction=floor,
    )
    curve = rates(run)
    assert sum(phase_steps(run)) == num_steps
    assert curve[0] > 0
    assert curve.max() == 1
    assert curve[-1] == pytest.approx(floor, rel=1e-12)
    top = int(curve.argmax())
    assert np.all(np.diff(curve[: top + 1]) > 0)
    assert np.all(np.diff(curve[top:]) <= 1e-12)


def test_ten_warmup_and_twenty_linear_decay_steps_waste_neither_end():
    run = dataclasses.replace(RUN, decay="linear", final_rate_fraction=0.05)
    curve = rates(run)
    assert curve[0] == 0.1
    assert curve[9] == 1
    assert curve[79] == 1
    assert curve[80] == pytest.approx(1 - 0.95 / 20)
    assert curve[99] == pytest.approx(0.05)


def test_exponential_decay_falls_by_a_constant_factor():
    tail = rates(RUN)[79:]
    assert np.allclose(tail[1:] / tail[:-1], 0.1 ** (1 / 20))


def test_no_decay_stays_at_the_peak():
    assert np.all(rates(dataclasses.replace(RUN, decay="none"))[10:] == 1)


def test_a_single_step_runs_at_the_peak():
    assert rates(dataclasses.replace(RUN, num_steps=1)).tolist() == [1.0]


def test_a_floor_of_zero_is_refused():
    with pytest.raises(ValueError, match="final_rate_fraction = 0"):
        dataclasses.replace(RUN, final_rate_fraction=0.0)


@pytest.mark.parametrize("step", [-1, 100])
def test_a_step_outside_the_run_is_refused(step):
    with pytest.raises(ValueError, match=f"step = {step}: must be from 0 to 99"):
        learning_rate_multiplier(step, RUN)


def test_merged_steps_end_at_the_last_step():
    run = dataclasses.replace(RUN, merge_checkpoints=4, merge_interval=25)
    assert merged_steps(run, 4) == [25, 50, 75, 100]
    assert merged_steps(run, 2) == [75, 100]
    assert merge_windows(run) == [4]
    assert merge_windows(dataclasses.replace(run, merge_windows=2)) == [4, 2]
    assert merge_windows(RUN) == []
