"""The benches compare like with like, and their table shows what they measured."""

import json
import sys

import pytest
import torch
from rich.console import Console

from bench import __main__ as bench
from bench import bench_kernels, bench_training
from bench.bench_training import SEQUENCE_LENGTH, SHAPES
from moe_leverage import paths
from moe_leverage.accounting import count_forward_flops

ROW = {
    "name": "step",
    "shape": "width 64",
    "value": 12345.6,
    "spread": "1 to 2",
    "unit": "tokens/s",
    "peer": "another",
    "ratio": 1.25,
    "target": ">= 1.5 x",
    "met": False,
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_dense_partner_costs_the_same_but_for_the_router(shape):
    moe = count_forward_flops(shape.moe(), SEQUENCE_LENGTH)
    dense = count_forward_flops(shape.dense(), SEQUENCE_LENGTH)
    assert moe.total - moe.router == dense.total


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_shapes_are_those_that_the_targets_name(shape):
    model = shape.moe()
    assert model.granularity == shape.granularity
    assert model.shared_ratio == pytest.approx(1 / 3)
    assert model.d_active_ffn == 3 * model.d_model


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES[1:3], ids=str)
@pytest.mark.parametrize("pair", ["attention", "products", "places"])
def test_the_two_sides_of_a_kernel_compute_the_same(pair, shape):
    _, ours, _, theirs = getattr(bench_kernels, pair)(shape)
    found, expected = ours(), theirs()
    if pair == "places":
        expected = (expected.tokens, expected.slots, expected.ends)
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-5 * (1 + other.abs().max().item()))


@pytest.mark.slow
def test_the_peer_has_as_many_weights_and_learns_the_same_batch():
    model = SHAPES[0].moe()
    assert bench_training.peer_model(model, "eager").num_parameters() > 0  # counts are asserted in
    step = bench_training.peer_step(model, "grouped_mm")
    tokens = bench_training.random_tokens(torch.Generator().manual_seed(0))
    assert step(tokens) > step(tokens)


def test_the_table_and_the_file_hold_every_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    monkeypatch.setattr(bench_training, "run", lambda: [ROW, ROW | {"met": True}])
    bench.main(["training"])
    assert json.loads((tmp_path / "bench.json").read_text()) == [ROW, ROW | {"met": True}]
    assert "1 targets missed" in capsys.readouterr().out
    console = Console(width=200, record=True, file=sys.stderr)
    console.print(bench.table([ROW]))
    text = console.export_text()
    assert all(part in text for part in ("12,346", "1 to 2", "1.25", ">= 1.5 x", "NO"))


def test_an_unknown_bench_is_named():
    with pytest.raises(SystemExit, match=r"no bench nothing; there are .*training"):
        bench.main(["nothing"])
