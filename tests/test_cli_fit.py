"""`moe-leverage fit` from a CSV to text, JSON and a page, and its one-line refusals."""

import html
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import JOINT, all_runs

from moe_leverage import paths
from moe_leverage.analysis import findings
from moe_leverage.cli import main
from moe_leverage.theory.rivals import ChinchillaLaw
from moe_leverage.your_runs import document

KEYS = {"num_runs", "num_dense", "num_moe", "leverage", "fits", "skipped", "warnings"}
ROW = {"activation_ratio", "granularity", "compute", "efficiency_leverage", "interval", "bound"}


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the verb in this process, as the installed command would."""

    def call(*arguments):
        verb = arguments[0] if arguments[0] in ("predict",) else "fit"
        rest = arguments[1:] if arguments[0] == verb else arguments
        monkeypatch.setattr(sys, "argv", ["moe-leverage", verb, *map(str, rest)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return SimpleNamespace(returncode=ended.value.code, stdout=shown.out, stderr=shown.err)

    return call


def swept_runs():
    """Three learning rates by two batches at every point; the middle rate is best."""
    base = all_runs(sigma=0.001, experts=(8, 32, 64, 256), scales=(1, 2, 4))
    parts = [
        base.assign(learning_rate=rate, batch_tokens=batch, loss=base["loss"] * penalty * burden)
        for rate, penalty in ((1e-3, 1.02), (2e-3, 1.0), (4e-3, 1.03))
        for batch, burden in ((2048, 1.0), (4096, 1.01))
    ]
    table = pd.concat(parts, ignore_index=True).drop(columns="true_leverage")
    return table.assign(is_moe=np.where(table["is_moe"], "moe", "dense"))


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    swept_runs().to_csv(path, index=False)
    return path


@pytest.mark.slow
def test_json_has_the_keys_and_the_truth(run, csv):
    done = run(csv, "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert set(record) >= KEYS
    assert record["num_runs"] == record["num_dense"] + record["num_moe"] == len(swept_runs())
    assert set(record["leverage"][0]) >= ROW
    for row in record["leverage"]:
        truth = JOINT(**{name: row[name] for name in JOINT.inputs})
        assert row["efficiency_leverage"] == pytest.approx(truth, rel=0.2)
        assert row["interval"][0] < row["efficiency_leverage"] < row["interval"][1]
    joint = record["fits"]["joint"]
    assert joint["identified"]["a"] == "identified"
    assert joint["published"]["a"] == 1.23
    assert any("the best of a sweep was taken, of up to 18 runs" in n for n in record["notes"])
    assert "learning_rate" in record["fits"]
    for name, fitted in record["fits"].items():
        is_section = fitted["equation"] in ("Eq. 10", "Eq. 11", "Eq. 12")
        assert fitted["role"] == ("section" if is_section else "law"), name
        assert set(fitted["identified"]) == set(fitted["coefficients"]), name
    assert record["fits"]["dense_learning_rate"]["family"] == "dense"
    forms = {name: record["fits"][name]["law"] for name in ("dense_loss", "dense_loss_power")}
    assert forms == {"dense_loss": "FlooredPowerLaw", "dense_loss_power": "PowerLaw"}
    assert any(w.startswith("published law: compute = 3e+11") for w in record["warnings"])
    assert "flops_per_token" in record["skipped"]["moe_model"]


@pytest.mark.slow
def test_report_is_one_self_contained_page(run, csv, tmp_path):
    page = tmp_path / "report.html"
    done = run(csv, "--report", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "Columns guessed from their names" in done.stdout
    assert text.count("<svg") == 2
    assert not re.search(r'(src|href)="(?!#)', text)
    assert "<script" not in text
    assert "@import" not in text
    for heading in ("Efficiency leverage", "Fitted laws", "What could not be fitted, and why"):
        assert heading in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_a_table_of_dense_runs_alone_says_what_it_lacks(run, tmp_path):
    path = tmp_path / "dense.csv"
    all_runs().query("not is_moe").drop(columns="true_leverage").to_csv(path, index=False)
    done = run(path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(done.stdout)
    assert record["leverage"] == []
    assert record["fits"], "L(C) is fitted without mixtures"
    assert record["skipped"]["leverage"].startswith("MoE runs = 0")


def test_dense_runs_of_many_sizes_give_the_chinchilla_law(run, tmp_path):
    generator = np.random.default_rng(0)
    sizes = np.exp(generator.uniform(np.log(5e7), np.log(1.6e10), 120))
    tokens = np.exp(generator.uniform(np.log(2e8), np.log(5e11), 120))
    truth = ChinchillaLaw(1.82, 482.0, 2085.0, 0.3478, 0.3658)
    loss = truth.evaluate(num_params=sizes, num_tokens=tokens)
    loss *= np.exp(0.003 * generator.standard_normal(120))
    table = {"family": "dense", "N": sizes, "D": tokens, "flops_6nd": 6 * sizes * tokens}
    path = tmp_path / "sizes.csv"
    pd.DataFrame(table | {"loss": loss}).to_csv(path, index=False)
    record = json.loads(run(path, "--json").stdout)
    found = record["fits"]["dense_chinchilla"]
    assert found["coefficients"]["alpha"] == pytest.approx(truth.alpha, abs=0.02)
    assert found["interval"]["floor"][0] < truth.floor < found["interval"]["floor"][1]
    assert record["units"]["compute"] == "six_n"


def test_a_saved_fit_answers_predictions(run, tmp_path):
    path, kept = tmp_path / "runs.csv", tmp_path / "fit.json"
    table = all_runs(sigma=0.001, experts=(8, 32, 64, 256), scales=(1, 2, 6))
    table.drop(columns="true_leverage").to_csv(path, index=False)
    assert run(path, "--save", kept).returncode == 0
    point = {"activation_ratio": 0.05, "granularity": 4.0, "compute": 5e12}
    options = [f"--{key.replace('_', '-')}={value}" for key, value in point.items()]
    done = run("predict", *options, "--from", kept, "--json")
    told = json.loads(done.stdout)["joint"]
    assert told["value"] == pytest.approx(JOINT(**point), rel=0.1)
    assert told["interval"][0] < told["value"] < told["interval"][1]
    axes = ["--activation-ratio=0.033766233766233764", "--granularity=10.666666666666666"]
    of_model = run("predict", "Ling-mini-beta", "--compute=5e12", "--from", kept, "--json")
    at_its_axes = run("predict", *axes, "--compute=5e12", "--from", kept, "--json")
    assert of_model.stdout == at_its_axes.stdout != done.stdout
    printed = run("predict", *options, "--from", kept, "--law", "all")
    assert (printed.returncode, printed.stdout) == (2, "")
    assert "law = 'all': is a printed law; --from keeps laws of its own" in printed.stderr
    (tmp_path / "other.json").write_text("[]")
    refused = run("predict", *options, "--from", tmp_path / "other.json")
    assert refused.returncode == 2
    assert "is no file that fit --save wrote" in refused.stderr


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("theta", ["a"] * 6), ("samples", [[1, 2], [3]]), ("covariance", "x"), ("delta", "x"),
        ("inputs", {}), ("convergence", {"a": 1}), ("clusters", None),
    ],
)  # fmt: skip
def test_a_damaged_fit_is_named(run, tmp_path, field, value):
    joint = json.loads((paths.FITS / "joint.json").read_text("utf-8"))
    kept = tmp_path / "fit.json"
    kept.write_text(json.dumps({"format": 1, "fits": {"joint": joint | {field: value}}}))
    point = ["--activation-ratio=0.05", "--granularity=4", "--compute=5e12"]
    done = run("predict", *point, "--from", kept)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("moe-leverage: fit.json: not a saved fit (")


def test_what_a_saved_fit_calls_itself_commands_no_terminal(run, tmp_path):
    joint = json.loads((paths.FITS / "joint.json").read_text("utf-8"))
    kept = tmp_path / "fit.json"
    named = {"\x1b[2J": joint | {"target": "EL\x1b[31m"}}
    kept.write_text(json.dumps({"format": 1, "fits": named}))
    point = ["--activation-ratio=0.05", "--granularity=4", "--compute=5e12"]
    done = run("predict", *point, "--from", kept)
    assert done.stdout.startswith(
        "\N{REPLACEMENT CHARACTER}[2J: EL\N{REPLACEMENT CHARACTER}[31m = "
    )


def test_several_files_and_formats_are_one_table(run, tmp_path):
    table = all_runs(experts=(32,), scales=(1,)).drop(columns="true_leverage")
    dense, moe = tmp_path / "dense.tsv", tmp_path / "moe.jsonl"
    table[~table["is_moe"]].to_csv(dense, index=False, sep="\t")
    table[table["is_moe"]].to_json(moe, orient="records", lines=True)
    record = json.loads(run(dense, moe, "--json").stdout)
    assert (record["num_dense"], record["num_moe"]) == (21, 5)
    assert len(record["leverage"]) == 5
    kept = json.loads(run(dense, moe, "--where", "compute > 5e11", "--json").stdout)
    assert kept["num_moe"] == 4
    alone = json.loads(run(dense, "--dense-only", "--json").stdout)
    assert alone["num_moe"] == 0


def test_files_of_one_name_are_told_apart_and_none_counts_twice(run, tmp_path):
    table = all_runs(experts=(32,), scales=(1,)).drop(columns="true_leverage")
    paths = [tmp_path / folder / "runs.csv" for folder in ("dense", "moe")]
    for path, rows in zip(paths, (table[~table["is_moe"]], table[table["is_moe"]]), strict=True):
        path.parent.mkdir()
        rows.to_csv(path, index=False)
    record = json.loads(run(*paths, "--json").stdout)
    assert (record["num_dense"], record["num_moe"]) == (21, 5)
    assert record["leverage"][0]["row"].endswith(f"{paths[1]}:2")
    refused = run(*paths, paths[0])
    assert refused.returncode == 2
    assert "is named twice" in refused.stderr
    paths[1].write_text("loss,flops\n")
    assert str(paths[1]) in run(*paths).stderr.split("RUNS")[0]


def test_a_floor_that_no_loss_could_reach_is_refused(run, tmp_path):
    path = tmp_path / "runs.csv"
    all_runs(experts=(32,), scales=(1,)).drop(columns="true_leverage").to_csv(path, index=False)
    refused = run(path, "--floor", "9")
    assert refused.returncode == 2
    assert "--floor = 9.0: must be below" in refused.stderr


def test_the_answer_comes_first_in_words(run, tmp_path):
    path = tmp_path / "runs.csv"
    all_runs(experts=(32,), scales=(1,)).drop(columns="true_leverage").to_csv(path, index=False)
    first = " ".join(run(path).stdout.split())
    assert re.match(r"At 3e\+13 FLOPs your mixtures save a factor of [\d.]+ \(", first)
    assert "ways of reading agree" in first.split("Leverage")[0]


def test_a_pinned_floor_bends_the_frontier_between_its_points(run, tmp_path):
    path, truth = tmp_path / "runs.csv", 3.0
    dense = [1e18, 1e20, 1e22]  # so far apart that a straight line between them is off
    compute = [*dense, 1e18, 1e20]
    loss = [
        1.8 + 500 * (c * (truth if place > 2 else 1)) ** -0.13 for place, c in enumerate(compute)
    ]
    kind = ["dense"] * 3 + ["moe"] * 2
    pd.DataFrame({"kind": kind, "flops": compute, "loss": loss}).to_csv(path, index=False)
    pinned = json.loads(run(path, "--floor", "1.8", "--json").stdout)["leverage"]
    straight = json.loads(run(path, "--floor", "0", "--json").stdout)["leverage"]
    for row, other in zip(pinned, straight, strict=True):
        assert row["efficiency_leverage"] == pytest.approx(truth, rel=1e-3)
        assert abs(other["efficiency_leverage"] / truth - 1) > 0.05


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--floor", "-1"], "--floor = -1.0: must not be negative"),
        (["--dense-only", "--moe-only"], "--moe-only = True: excludes --dense-only"),
        (["--where", "compute >"], "--where = 'compute >': "),
        (["--where", "compute > 1e99"], "--where = 'compute > 1e99': keeps no row"),
    ],
)
def test_choices_that_cannot_be_are_refused_in_a_line(run, tmp_path, options, reason):
    path = tmp_path / "runs.csv"
    all_runs(experts=(32,), scales=(1,)).drop(columns="true_leverage").to_csv(path, index=False)
    done = run(path, *options)
    assert done.returncode == 2
    assert done.stdout == ""
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_mixtures_alone_keep_their_own_curve(run, tmp_path):
    path = tmp_path / "runs.csv"
    all_runs(experts=(32,), scales=(1,)).drop(columns="true_leverage").to_csv(path, index=False)
    record = json.loads(run(path, "--moe-only", "--json").stdout)
    assert (record["num_dense"], record["num_moe"]) == (0, 5)
    assert "moe_loss" in record["fits"]
    assert "dense_loss" not in record["fits"]
    assert record["leverage"] == []


def checkpointed(runs, copies):
    """Dense runs of one size each, every one with checkpoints that share its luck."""
    generator, rows = np.random.default_rng(0), []
    for run in range(runs):
        luck = np.exp(0.01 * generator.standard_normal())
        for copy in range(copies):
            compute = 10 ** (18 + 2 * run / runs + 0.02 * copy)
            rows.append((f"r{run}", copy, "dense", compute, 3 * (compute / 1e18) ** -0.05 * luck))
    return pd.DataFrame(rows, columns=["run", "step", "kind", "flops", "loss"])


def test_intervals_go_by_run_where_its_checkpoints_are_kept(run, tmp_path):
    widths, path = [], tmp_path / "runs.csv"
    for copies in (2, 8):  # more checkpoints of the same runs tell hardly more
        checkpointed(8, copies).to_csv(path, index=False)
        done = run(path, "--all-checkpoints", "--json")
        record = json.loads(done.stdout)
        assert record["num_runs"] == 8 * copies
        low, high = record["fits"]["dense_loss_power"]["interval"]["exponent"]
        widths.append(high - low)
    assert widths[1] > 0.7 * widths[0]


def test_one_budget_gives_reasons_and_no_fits(run, tmp_path):
    path = tmp_path / "one.csv"
    table = all_runs().query("compute == 1e12").drop(columns="true_leverage")
    table.to_csv(path, index=False)
    done = run(path, "--json")
    assert (done.returncode, done.stderr) == (1, "moe-leverage: nothing was fitted\n")
    record = json.loads(done.stdout)
    assert record["fits"] == {}
    assert record["skipped"]["leverage"].startswith("dense budgets = 1")


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ("runs.csv", "is an input or another output; name another file"),
        ("linked.csv", "is a link, and would be replaced by a file"),
        ("same.csv", "is an input"),
        (".", "is a directory"),
        ("none/report.html", "its folder none is not there"),
        ("folder", "is a directory"),
        ("/dev/null", "is a device"),
        ("", "is a directory"),
    ],
)
def test_a_report_is_a_new_name_or_a_regular_file_and_not_the_input(
    run, tmp_path, monkeypatch, report, reason
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs.csv"
    all_runs().drop(columns="true_leverage").to_csv(path)
    (tmp_path / "linked.csv").symlink_to(path)
    (tmp_path / "same.csv").hardlink_to(path)
    (tmp_path / "folder").mkdir()
    before = path.read_bytes(), sorted(tmp_path.iterdir())
    monkeypatch.setattr(findings, "examine", lambda runs: pytest.fail("the work had begun"))
    done = run("runs.csv", "--report", report)
    assert done.returncode == 2
    assert done.stderr.startswith("moe-leverage: report = ")
    assert reason in done.stderr
    assert (path.read_bytes(), sorted(tmp_path.iterdir())) == before


MARKUP = ("[/x]", "[bold]", "[red]x[/]", "$\\frac$", "<script>alert(1)</script>", "&amp;", "=1+1")


@pytest.mark.parametrize("word", MARKUP)
def test_what_a_table_says_is_text_and_never_markup(run, tmp_path, word):
    name = re.sub(r"[^\w$\[\]<>&;=+]", "", word)
    path, report = tmp_path / f"{name}.csv", tmp_path / "report.html"
    table = all_runs(experts=(8, 32), scales=(1, 4)).drop(columns="true_leverage")
    table = table.assign(**{word: 1, "variant": word, "status": "ok"})
    table.loc[len(table)] = table.iloc[0].to_dict() | {"status": word}
    table.to_csv(path, index=False)
    done = run(path, "--report", report)
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr in ("", "moe-leverage: nothing was fitted\n")
    assert word in " ".join(done.stdout.split())
    text = report.read_text()
    assert "<script" not in text
    assert html.escape(word) in text
    assert f"<title>Efficiency leverage of {html.escape(path.name)}</title>" in text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("loss,flops,A,G\n-3,1e18,1,2\n", "row 2, loss = -3: "),
        ("lss,flops,A,G\n3,1e18,1,2\n", "loss = None: not found among lss, flops, A, G"),
    ],
)
def test_mistakes_end_in_one_line_and_exit_2(run, tmp_path, text, reason):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    done = run(path)
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_every_cell_and_caption_of_a_report_is_text():
    script = "<script>alert(1)</script>"
    table = document._table(script, [script], [[script]])
    assert "<script" not in table
    assert table.count(html.escape(script)) == 4  # the caption names the region too
    assert "<script" not in document._list([script])
