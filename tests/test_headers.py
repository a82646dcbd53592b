"""Tables with the column names that people publish, filled with made-up rows, read as they are."""

import json

import numpy as np
import pandas as pd
import pytest

from moe_leverage.analysis.findings import chinchilla, examine
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


def ladder(leverage=2.5, sigma=0.003, dense=9, moe=5, seed=0):
    """Dense runs at 20 tokens a parameter, and mixtures with the loss that `leverage` times C buys.

    At one ratio the dense frontier is the law along a line, so the leverage is known exactly.
    """
    generator = np.random.default_rng(seed)
    n = np.concatenate([np.geomspace(5e7, 4e9, dense), np.geomspace(7e7, 1.6e9, moe)])
    gain = np.sqrt(np.r_[np.ones(dense), np.full(moe, leverage)])
    loss = LAW.evaluate(num_params=n * gain, num_tokens=20 * n * gain)
    loss = loss * np.exp(sigma * generator.standard_normal(dense + moe))
    return pd.DataFrame({"is_moe": gain > 1, "n": n, "d": 20 * n, "loss": loss})


def share_inside(runs, truth=2.5):
    """The share of the intervals of EL that hold the truth."""
    found = examine(runs, resamples=300).leverage.points
    frontier = found[(found["estimator"] == "frontier") & found["low"].notna()]
    assert len(frontier) >= 3
    return float(((frontier["low"] <= truth) & (truth <= frontier["high"])).mean())


def given_back(found, name="dense_chinchilla"):
    """Whether the law is inside the intervals of its fit, at 99 % so that five ends may hold."""
    ends = found.fits[name].interval(0.99)
    return all(low < getattr(LAW, key) < high for key, (low, high) in ends.items())


def test_runs_at_one_ratio_of_tokens_tell_no_law_of_two_axes():
    sizes = np.geomspace(1e6, 1e9, 8)
    runs = pd.DataFrame({"is_moe": False, "active_params": sizes, "num_tokens": 20 * sizes})
    runs["compute"], runs["loss"] = 120 * sizes**2, 1.8 + 400 / sizes**0.34
    found = chinchilla(runs, resamples=0)
    assert found.fits == {}
    reason = "num_tokens over active_params = 20 in every run: no second axis for L(N, D)"
    assert found.skipped["dense_chinchilla"] == reason


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


def test_a_run_that_the_law_of_sizes_misses_by_far_is_named_and_left_out(tmp_path):
    table = sizes()
    table.loc[17, "loss"] *= 0.7
    path = tmp_path / "sizes.csv"
    pd.DataFrame({
        "params": table["n"], "tokens": table["d"], "budget": 6 * table["n"] * table["d"],
        "loss": table["loss"],
    }).to_csv(path, index=False)  # fmt: skip
    runs = read_runs(path, Choice(only="dense")).runs
    found = chinchilla(runs, resamples=300)
    assert given_back(found)
    (said,) = found.warnings
    assert said.startswith("outlier: row 19 at ")
    assert f"loss {table.loc[17, 'loss']:.4g}: L(N, D) of the dense runs misses it" in said
    law, both = found.fits["dense_chinchilla"].law, found.with_outliers["dense_chinchilla"].law
    assert not np.allclose(law.coefficients, both.coefficients, rtol=1e-6)
    sound = chinchilla(runs.drop(index=runs["loss"].idxmin()), resamples=0)
    assert (sound.warnings, dict(sound.with_outliers)) == ([], {})


def test_several_dense_sources_leave_marked_rows_out(tmp_path):
    table = sizes()
    path = tmp_path / "sources.csv"
    pd.DataFrame({
        "source": "a", "dataset": "b", "model": "m", "condition": "c", "experiment": "e",
        "tokens": table["d"], "params": table["n"], "budget": 6 * table["n"] * table["d"],
        "loss": table["loss"], "outlier": [True] + 239 * [False], "reason": "",
    }).to_csv(path, index=False)  # fmt: skip
    read = read_runs(path, Choice(only="dense"))
    assert len(read.runs) == 239
    assert given_back(examine(read.runs, resamples=300))
    assert any("1 row(s) marked as outliers" in warning for warning in read.warnings)


def test_a_weights_and_biases_export_leaves_crashed_runs_out(tmp_path):
    table = ladder()
    path = tmp_path / "wandb.csv"
    pd.DataFrame({
        "Name": [f"run-{i}" for i in range(14)], "State": ["crashed"] + 13 * ["finished"],
        "Created": "2026", "Runtime": range(14), "Tags": "", "_step": 1000,
        "config.model.num_experts": np.where(table["is_moe"], 64, 0), "config.optim.lr": 1e-3,
        "torch_seed": 1,
        "train/loss": table["loss"] * 0.98, "eval/loss": table["loss"],
        "throughput/total_tokens": table["d"], "parameter_count": table["n"],
        "throughput/total_gflops": 6 * table["n"] * table["d"] / 1e9, "model.hidden_dim": 512,
    }).to_csv(path, index=False)  # fmt: skip
    with pytest.raises(ValueError, match="'train/loss', 'eval/loss'"):
        read_runs(path)
    read = read_runs(path, Choice(columns=["loss=eval/loss"]))
    assert len(read.runs) == 13
    assert share_inside(read.runs) >= 0.8
    np.testing.assert_allclose(read.runs["compute"], 6 * (table["n"] * table["d"])[1:], rtol=1e-9)
    assert "1 run(s) with status crashed were left out: row 2" in read.warnings


def test_a_table_pasted_from_a_readme(tmp_path):
    table = ladder()
    names = ("variant", "size", "TPP", "batch", "active", "total", "steps", "tokens", "FLOPs",
             "MFU", "Paloma loss", "Paloma bpb", "runtime")  # fmt: skip
    lines = [names, ["---"] * len(names)]
    for row in table.itertuples():
        active, total = f"{row.n / 1e6:.1f}M", f"{(5 if row.is_moe else 1) * row.n / 1e6:.1f}M"
        lines.append(
            ["moe" if row.is_moe else "dense", active, "20", "0.5M", active, total, "2,040",
             f"{row.d / 1e9:.2f}B", f"{6 * row.n * row.d:.3e}", "16.6%", f"{row.loss:.4f}",
             f"{row.loss / 3:.4f}", "3.7m"]
        )  # fmt: skip
    path = tmp_path / "README.md"
    path.write_text("".join(f"| {' | '.join(cells)} |\n" for cells in lines))
    runs = read_runs(path, Choice(columns=["loss=Paloma loss"])).runs
    np.testing.assert_allclose(runs["active_params"], table["n"], rtol=2e-3)
    np.testing.assert_allclose(runs["num_tokens"], table["d"], rtol=5e-3)
    assert runs["is_moe"].tolist() == table["is_moe"].tolist()
    assert share_inside(runs) >= 0.8


def test_json_lines_of_checkpoints_count_once_a_run(tmp_path):
    path, table = tmp_path / "log.jsonl", sizes(60, sigma=0.003)
    lines = [
        {"step": int(share * row.d / 1e6), "final_loss": row.loss * (2 - share),
         "run_name": f"w{row.Index}", "width": 256, "depth": 4, "num_nodes": 1,
         "tokens": share * row.d, "params_active_precise": row.n, "seconds_per_step": 0.1 + share}
        for row in table.itertuples() for share in (0.25, 0.5, 1.0)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, lines)))
    read = read_runs(path, Choice(only="dense"))
    np.testing.assert_allclose(read.runs["num_tokens"], table["d"])
    np.testing.assert_allclose(read.runs["compute"], 6 * table["d"] * table["n"])
    assert given_back(examine(read.runs, resamples=300))


def test_a_sweep_of_mixtures_joins_its_dense_table(tmp_path):
    table = ladder()
    worse = table.assign(loss=table["loss"] * 1.03)  # the other half of the sweep of rates
    table = pd.concat([table.assign(lr=1e-3), worse.assign(lr=2e-3)], ignore_index=True)
    moe, dense = table[table["is_moe"]], table[~table["is_moe"]]
    common = {"h": 1024, "ffnh": 4096, "numh": 16, "numl": 12, "bs": 64, "ti": 1}
    mixtures = pd.DataFrame({
        "seq_len": 2048, "topk": 2, "nume": 64, "moeh": 512, "sed": 512, "numld": 1, **common,
        "lr": moe["lr"], "loss": moe["loss"], "smooth loss": moe["loss"] + 0.01,
        "average_iter_time": 1.0 + moe.index, "target_iter": 900, "final_iter": 900,
        "exp_name": [f"x{i}" for i in moe.index], "moe_layer_enum_type": "all", "mfa_version": 2,
        "Nattn": 0.2 * moe["n"], "N": 8 * moe["n"], "Na": moe["n"], "M": 7 * moe["n"],
        "kvcache": 1, "D": moe["d"], "D/N": 1.0, "total_time": 2.0 + moe.index, "Na/N": 0.125,
        "moe_name": "m",
    })  # fmt: skip
    plain = pd.DataFrame({
        **common, "lr": dense["lr"], "loss": dense["loss"], "smooth loss": dense["loss"] + 0.01,
        "exp_name": [f"y{i}" for i in dense.index], "D": dense["d"], "N": dense["n"],
        "D/N": dense["d"] / dense["n"],
    })  # fmt: skip
    paths = [tmp_path / "moe.csv", tmp_path / "dense.csv"]
    for frame, path in zip((mixtures, plain), paths, strict=True):
        frame.to_csv(path, index=False)
    with pytest.raises(ValueError, match="'loss', 'smooth loss'"):
        read_runs(paths)
    runs = read_runs(paths, Choice(columns=["loss=loss"])).runs
    assert runs["is_moe"].sum() == len(moe)
    assert runs.loc[runs["is_moe"], "activation_ratio"].iloc[0] == pytest.approx(3 / 65)
    assert runs.loc[runs["is_moe"], "granularity"].iloc[0] == 4.0
    counted = 6 * np.concatenate([moe["n"] * moe["d"], dense["n"] * dense["d"]])
    np.testing.assert_allclose(runs["compute"], counted, rtol=1e-9)  # alike in both
    assert share_inside(runs) >= 0.8


def test_a_routing_study_with_checkpoints(tmp_path):
    table, rows = ladder(), []
    for row in table.itertuples():
        experts = 64 if row.is_moe else 1
        for share in (0.2, 1.0):
            rows.append({
                "hyper_id": f"{experts}-{row.Index}", "step": int(5000 * share), "loss_c4": 3.0,
                "loss_validation": row.loss * (2 - share), "loss_wiki": 3.3,
                "num_experts": experts, "d_model": 512, "num_blocks": 8, "num_heads": 8,
                "kqv_size": 64, "flop_increase": 0.0, "k": 1, "routing_frequency": 0.5,
                "router_type": "sinkhorn" if experts > 1 else "none", "seed": 42,
                "total_parameter_count": row.n * experts, "dense_parameter_count": row.n,
                "flops_per_step": 6 * row.n * row.d / 5000, "model_size_label": f"{row.n:.0f}",
            })  # fmt: skip
    path = tmp_path / "study.csv.gz"
    pd.DataFrame(rows).to_csv(path, index=False)
    runs = read_runs(path, Choice(columns=["loss=loss_validation"])).runs
    assert len(runs) == len(table)
    assert (~runs["is_moe"]).sum() == (~table["is_moe"]).sum()
    assert set(runs["variant"]) == {"", "sinkhorn"}
    np.testing.assert_allclose(runs["compute"], 6 * table["n"] * table["d"])
    assert share_inside(runs) >= 0.8


def test_several_conventions_of_flops_are_offered_by_name(tmp_path):
    path, table = tmp_path / "c.csv", sizes()
    flops = 6 * table["n"] * table["d"]
    pd.DataFrame({
        "loss": table["loss"], "C4 Eval Loss": table["loss"] + 0.1, "N": 1.2 * table["n"],
        "N_no_emb": table["n"], "D": table["d"], "C": 1.3 * flops, "C_no_emb": 1.1 * flops,
        "C_6ND": 1.2 * flops, "C_6ND_no_emb": flops,
    }).to_csv(path, index=False)  # fmt: skip
    with pytest.raises(ValueError, match="'C', 'C_no_emb', 'C_6ND', 'C_6ND_no_emb'"):
        read_runs(path)
    columns = ["loss=loss", "total_params=N_no_emb", "compute=C_no_emb"]
    runs = read_runs(path, Choice(columns=columns, only="dense")).runs
    np.testing.assert_allclose(runs["compute"], 1.1 * flops)
    assert given_back(examine(runs, resamples=300))


def with_sizes(table):
    """The columns of a ladder in names that anybody reads."""
    own = {
        "active_params": table["n"],
        "num_tokens": table["d"],
        "moe": table["is_moe"].astype(int),
    }
    return pd.DataFrame(own)


def test_tensorboard_scalars_of_all_runs_are_one_table(tmp_path):
    """Long: run, tag, step, value; sizes are written once, the loss at every evaluation."""
    table, rows = ladder(), []
    for number, (own, loss) in enumerate(
        zip(with_sizes(table).to_dict("records"), table["loss"], strict=True)
    ):
        rows += [
            {"run": f"run{number}", "tag": f"size/{tag}", "step": 0, "value": v}
            for tag, v in own.items()
        ]
        rows += [
            {"run": f"run{number}", "tag": "loss/validation", "step": step, "value": worse * loss}
            for step, worse in ((500, 1.2), (1000, 1.0))
        ]
    path = tmp_path / "scalars.csv"
    pd.DataFrame(rows).assign(wall_time=1.7e9).to_csv(path, index=False)
    read = read_runs(path)
    np.testing.assert_allclose(read.runs["loss"], table["loss"])
    assert share_inside(read.runs) >= 0.6


def test_tensorboard_hyperparameters_are_read_without_their_prefix(tmp_path):
    table = ladder()
    own = with_sizes(table).add_prefix("hparams/").assign(**{"loss/validation": table["loss"]})
    path = tmp_path / "hparams.csv"
    own.assign(trial_id=range(len(own))).to_csv(path, index=False)
    assert share_inside(read_runs(path).runs) >= 0.6


def test_one_curve_of_tensorboard_is_told_what_it_lacks(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text("Wall time,Step,Value\n1.7e9,100,3.2\n1.7e9,200,3.1\n")
    with pytest.raises(ValueError, match=r"curve\.csv = .*one curve of one run"):
        read_runs(path)


@pytest.mark.parametrize("per_word", [False, True])
def test_lm_eval_metrics_are_losses_with_their_filter(tmp_path, per_word):
    """Bits per byte, or a perplexity per word beside it: EL is the same of any of them."""
    table = ladder()
    own = with_sizes(table)
    bits = table["loss"] / 4.3 / np.log(2)
    if per_word:
        own["word_perplexity,none"] = np.exp(1.3 * table["loss"])
        own["word_perplexity_stderr,none"] = "N/A"
    path = tmp_path / "lm_eval.csv"
    own.assign(**{"bits_per_byte,none": bits}).to_csv(path, index=False)
    read = read_runs(path)
    assert read.mapping.units["loss"] == ("perplexity" if per_word else "bits per byte")
    assert share_inside(read.runs) >= 0.6
