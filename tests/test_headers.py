"""Tables with the column names that people publish, filled with made-up rows, read as they are."""

import json

import numpy as np
import pandas as pd
import pytest

from moe_leverage.analysis.findings import examine
from moe_leverage.theory.rivals import ChinchillaLaw
from moe_leverage.your_runs.reading import Choice, read_runs

LAW = ChinchillaLaw(1.82, 482.0, 2085.0, 0.348, 0.366)


def sizes(count=240, sigma=0.01, seed=0):
    generator = np.random.default_rng(seed)
    n = np.exp(generator.uniform(np.log(5e7), np.log(1.6e10), count))
    d = np.exp(generator.uniform(np.log(2e9), np.log(5e11), count))
    loss = LAW.evaluate(num_params=n, num_tokens=d) * np.exp(
        sigma * generator.standard_normal(count)
    )
    return pd.DataFrame({"n": n, "d": d, "loss": loss})


def given_back(found, name="dense_chinchilla"):
    """Whether the law is inside the intervals of its fit, at 99 % so that five ends may hold."""
    ends = found.fits[name].interval(0.99)
    return all(low < getattr(LAW, key) < high for key, (low, high) in ends.items())


def test_digitised_chinchilla_gives_its_law_back(tmp_path):
    table = sizes()
    path = tmp_path / "svg.csv"
    pd.DataFrame({
        "x": table["n"], "y": table["d"], "color": "#fff", "Model Size": table["n"],
        "Training FLOP": 6 * table["n"] * table["d"], "hex_color": "#000", "loss": table["loss"],
    }).to_csv(path, index=False)  # fmt: skip
    with pytest.raises(ValueError, match="--dense-only"):
        read_runs(path)
    read = read_runs(path, Choice(only="dense"))
    np.testing.assert_allclose(read.runs["num_tokens"], table["d"], rtol=1e-6)
    assert given_back(examine(read.runs, resamples=300))


def test_several_dense_sources_leave_marked_rows_out(tmp_path):
    table = sizes(60)
    path = tmp_path / "sources.csv"
    pd.DataFrame({
        "source": "a", "dataset": "b", "model": "m", "condition": "c", "experiment": "e",
        "tokens": table["d"], "params": table["n"], "budget": 6 * table["n"] * table["d"],
        "loss": table["loss"], "outlier": [True] + 59 * [False], "reason": "",
    }).to_csv(path, index=False)  # fmt: skip
    read = read_runs(path, Choice(only="dense"))
    assert len(read.runs) == 59
    assert any("1 row(s) marked as outliers" in warning for warning in read.warnings)


def test_a_weights_and_biases_export_leaves_crashed_runs_out(tmp_path):
    table = sizes(12)
    path = tmp_path / "wandb.csv"
    pd.DataFrame({
        "Name": [f"run-{i}" for i in range(12)], "State": ["crashed"] + 11 * ["finished"],
        "Created": "2026", "Runtime": range(12), "Tags": "", "_step": 1000,
        "config.model.num_experts": [0] * 6 + [64] * 6, "config.optim.lr": 1e-3, "torch_seed": 1,
        "train/loss": table["loss"] * 0.98, "eval/loss": table["loss"],
        "throughput/total_tokens": table["d"], "parameter_count": table["n"],
        "throughput/total_gflops": 6 * table["n"] * table["d"] / 1e9, "model.hidden_dim": 512,
    }).to_csv(path, index=False)  # fmt: skip
    with pytest.raises(ValueError, match="'train/loss', 'eval/loss'"):
        read_runs(path)
    read = read_runs(path, Choice(columns=["loss=eval/loss"]))
    assert len(read.runs) == 11
    np.testing.assert_allclose(read.runs["compute"], 6 * (table["n"] * table["d"])[1:], rtol=1e-9)
    assert "1 run(s) with status crashed were left out: row 2" in read.warnings


def test_a_table_pasted_from_a_readme(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(
        "| variant | active | total | steps | tokens | FLOPs | MFU | Paloma loss | runtime |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        "| dense | 18.1M | 18.1M | 2,040 | 0.36B | 3.9e16 | 16.6% | 4.2 | 3.7m |\n"
        "| dense | 36.8M | 36.8M | 4,080 | 0.74B | 1.6e17 | 16.6% | 3.9 | 9m |\n"
        "| moe | 18.1M | 98M | 2,040 | 0.36B | 3.9e16 | 12.1% | 4.0 | 5m |\n"
    )
    runs = read_runs(path).runs
    assert runs["active_params"].tolist() == [18.1e6, 36.8e6, 18.1e6]
    assert runs["num_tokens"].tolist() == pytest.approx([0.36e9, 0.74e9, 0.36e9])
    assert runs["is_moe"].tolist() == [False, False, True]


def test_json_lines_of_checkpoints_count_once_a_run(tmp_path):
    path = tmp_path / "log.jsonl"
    lines = [
        {"step": step, "final_loss": 4.0 - step / 1e4 - size / 1e9, "run_name": f"w{size}",
         "width": 256, "depth": 4, "tokens": 1e6 * step, "params_active_precise": size,
         "seconds_per_step": 0.1 + step}
        for size in (1e7, 2e7, 4e7) for step in (1000, 2000, 4000)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, lines)))
    read = read_runs(path, Choice(only="dense"))
    assert read.runs["num_tokens"].tolist() == [4e9, 4e9, 4e9]
    np.testing.assert_allclose(read.runs["compute"], 6 * 4e9 * np.array([1e7, 2e7, 4e7]))


def test_a_sweep_of_mixtures_joins_its_dense_table(tmp_path):
    table = sizes(8)
    common = {"h": 1024, "ffnh": 4096, "numh": 16, "numl": 12, "lr": [1e-3, 2e-3] * 4, "bs": 64}
    moe = pd.DataFrame({
        "seq_len": 2048, "topk": 2, "nume": 64, "moeh": 512, "sed": 512, "numld": 1, **common,
        "loss": table["loss"], "smooth loss": table["loss"] + 0.01,
        "exp_name": [f"x{i}" for i in range(8)], "N": 8 * table["n"], "Na": table["n"],
        "M": 7 * table["n"], "D": table["d"], "D/N": 1.0, "Na/N": 0.125,
    })  # fmt: skip
    dense = pd.DataFrame({
        **common, "loss": table["loss"] + 0.2, "smooth loss": table["loss"] + 0.21,
        "exp_name": [f"y{i}" for i in range(8)], "D": table["d"], "N": table["n"],
    })  # fmt: skip
    paths = [tmp_path / "moe.csv", tmp_path / "dense.csv"]
    for frame, path in zip((moe, dense), paths, strict=True):
        frame.to_csv(path, index=False)
    with pytest.raises(ValueError, match="'loss', 'smooth loss'"):
        read_runs(paths)
    read = read_runs(paths, Choice(columns=["loss=smooth loss"]))
    runs = read.runs
    assert runs["is_moe"].sum() == 8
    assert runs.loc[runs["is_moe"], "activation_ratio"].iloc[0] == pytest.approx(3 / 65)
    assert runs.loc[runs["is_moe"], "granularity"].iloc[0] == 4.0
    np.testing.assert_allclose(
        runs["compute"], 6 * np.tile(table["n"] * table["d"], 2), rtol=1e-9
    )  # alike in both


def test_a_routing_study_with_checkpoints(tmp_path):
    rows = [
        {"hyper_id": f"{experts}-{size}", "step": step, "loss_c4": 3.0,
         "loss_validation": 4 - step / 1e5,
         "num_experts": experts, "d_model": 512, "num_blocks": 8, "num_heads": 8, "k": 1,
         "router_type": "sinkhorn" if experts > 1 else "none", "seed": 42,
         "total_parameter_count": size * experts, "dense_parameter_count": size,
         "flops_per_step": 1e12 * size / 1e6}
        for experts in (1, 8, 64) for size in (1.5e7, 5e7, 1.3e8) for step in (1000, 5000)
    ]  # fmt: skip
    path = tmp_path / "study.csv.gz"
    pd.DataFrame(rows).to_csv(path, index=False)
    read = read_runs(path, Choice(columns=["loss=loss_validation"]))
    assert len(read.runs) == 9
    assert (~read.runs["is_moe"]).sum() == 3
    assert set(read.runs["variant"]) == {"", "sinkhorn"}
    assert read.runs["compute"].max() == pytest.approx(5000 * 1.3e14)


def test_several_conventions_of_flops_are_offered_by_name(tmp_path):
    path = tmp_path / "c.csv"
    names = ["loss", "C4 Eval Loss", "N", "N_no_emb", "D", "C", "C_no_emb", "C_6ND", "C_6ND_no_emb"]
    pd.DataFrame([np.arange(3, 12), np.arange(4, 13)], columns=names).to_csv(path, index=False)
    with pytest.raises(ValueError, match="'C', 'C_no_emb', 'C_6ND', 'C_6ND_no_emb'"):
        read_runs(path)
