"""The page's leverage of a reader's table is the package's: points, noise and intervals."""

import numpy as np
import pandas as pd
import pytest
from test_parts import in_javascript

from moe_leverage.analysis.bootstrap import student_ratio
from moe_leverage.analysis.dense_frontier import Draws, frontier_points
from moe_leverage.analysis.findings import examine
from moe_leverage.analysis.leverage import estimate
from moe_leverage.analysis.points import best_runs, table_noise
from moe_leverage.instruments import your_table
from moe_leverage.your_runs.answer import sentences
from moe_leverage.your_runs.reading import read_runs

SCRIPTS = ("leverage.js", "refit.js", "your_table.js")
RUN = """
    eval(values.data);
    return values.tables.map((text) => {
      try {
        const { runs, unread, columns } = ml.yourTable.read(text);
        const normals = (count) => values.normals.map((row) => row.slice(0, count));
        const found = ml.yourTable.leverage(runs, normals);
        const said = ml.yourTable.answer(found);
        return { ...found, noise: Number.isNaN(found.noise) ? null : found.noise, unread, said };
      } catch (error) {
        return error.message;
      }
    });
"""


def in_page(tables: list[str], normals: np.ndarray) -> list:
    values = {"data": your_table.script(), "tables": tables, "normals": normals.tolist()}
    return in_javascript(RUN, values, *SCRIPTS)


def runs(seeds: int, *, noise: float = 0.004, seed: int = 0) -> pd.DataFrame:
    """Dense runs and mixtures of three designs on a power law with noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for compute in np.geomspace(1e18, 1e21, 5):
        for is_moe, ratio, grain, gain in (
            (False, 1.0, np.nan, 1.0), (True, 0.25, 2.0, 1.6), (True, 0.05, 4.0, 2.5),
        ):  # fmt: skip
            for number in range(seeds):
                spent = compute * (1 + 0.01 * rng.uniform(-1, 1))
                loss = 30 * (spent * gain) ** -0.055 * np.exp(noise * rng.standard_normal())
                rows.append((("moe" if is_moe else "dense"), ratio, grain, spent, loss, number))
    names = ["kind", "A", "G", "FLOPs", "val_loss", "seed"]
    return pd.DataFrame(rows, columns=names)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("ending", [",", ";", "\t"])
def test_points_noise_and_intervals_are_the_package_s(tmp_path, seeds, ending):
    frame = runs(seeds)
    text = frame.to_csv(index=False, sep=ending, float_format="%.17g")
    (tmp_path / "runs.csv").write_text(text)
    table = read_runs(tmp_path / "runs.csv").runs.drop(columns=["row", "config_id"])
    normals = np.random.default_rng(3).standard_normal((200, 15))
    (got,) = in_page([text], normals)
    assert not isinstance(got, str), got
    wanted = estimate(table, floor=0.0, resamples=20).points
    wanted = wanted[wanted["estimator"] == "frontier"].sort_values(["compute", "activation_ratio"])
    found = pd.DataFrame(got["points"]).sort_values(["C", "A"])
    for name, ours in (("A", "activation_ratio"), ("G", "granularity"), ("C", "compute"),
                       ("loss", "loss"), ("EL", "efficiency_leverage")):  # fmt: skip
        np.testing.assert_allclose(
            found[name].astype(float), wanted[ours].astype(float), rtol=1e-9, err_msg=name
        )
    sigma, freedom = table_noise(table)
    assert got["freedom"] == freedom
    if seeds == 1:
        assert got["noise"] is None
        assert found["ends"].isna().all()
        assert "can give no interval" in got["said"]
        return
    assert got["noise"] == pytest.approx(sigma * student_ratio(freedom), rel=1e-9)
    best = best_runs(table).sort_values("compute")
    dense, moe = best[~best["is_moe"]], best[best["is_moe"]]

    class Same:
        """Gives the page's own draws, dense ones first."""

        def __init__(self, *parts: np.ndarray) -> None:
            self.parts = list(parts)

        def standard_normal(self, shape: tuple[int, int]) -> np.ndarray:
            return self.parts.pop(0).reshape(shape)

    generator = Same(normals[:, : len(dense)], normals[:, len(dense) :])
    draws = Draws(got["noise"], len(normals), 0.9, generator)
    points = frontier_points(dense, moe, 0.0, draws)
    by_place = {(p["C"], p["A"]): p.get("ends") for p in got["points"]}
    for point in points.dropna(subset=["efficiency_leverage"]).to_dict("records"):
        (ends,) = [
            e for (c, a), e in by_place.items()
            if np.isclose(c, point["compute"], rtol=1e-9) and a == point["activation_ratio"]
        ]  # fmt: skip
        known = [np.inf if end is None else end for end in ends]  # JSON has no infinity
        np.testing.assert_allclose(known, [point["low"], point["high"]], rtol=1e-9)


def test_a_table_that_says_too_little_or_too_much_is_refused_in_a_line():
    frame = runs(1)
    broken = {
        "no column of loss": frame.drop(columns="val_loss"),
        "nothing tells dense from MoE": frame.drop(columns=["kind", "A"]),
        "could both be loss": frame.assign(loss=1.0),
        "tells rows apart": frame.assign(step=1),
        "dense budgets = 0": frame[frame["kind"] == "moe"],
        "MoE runs = 0": frame[frame["kind"] == "dense"],
        "row 2, val_loss = 0,5": frame.assign(val_loss="0,5"),
        "row 2, FLOPs = 12": frame.assign(FLOPs=12),
        "row 2, kind = other": frame.assign(kind="other"),
    }
    texts = [table.to_csv(index=False) for table in broken.values()]
    found = in_page([*texts, "", "a,b", '"'], np.zeros((1, 15)))
    for wanted, said in zip(broken, found, strict=False):
        assert wanted in said
        assert "\n" not in said
    assert found[-3:] == [
        "the table has no rows",
        "the table has no rows",
        "a quoted cell does not end",
    ]


def test_the_answer_comes_first_and_bounds_are_said():
    frame = runs(3)
    better = frame.assign(val_loss=frame["val_loss"].where(frame["kind"] == "dense", 0.5))
    worse = frame.assign(val_loss=frame["val_loss"].where(frame["kind"] == "dense", 9.0))
    tables = [f.to_csv(index=False) for f in (frame, better, worse)]
    known, least, most = in_page(tables, np.random.default_rng(0).standard_normal((50, 15)))
    assert known["said"].startswith("At ")
    assert "your mixtures save a factor of" in known["said"]
    assert "save at least a factor of" in least["said"]
    assert "save at most a factor of" in most["said"]


def test_two_dense_budgets_give_a_bound_in_the_words_of_the_command(tmp_path):
    frame = runs(1)
    ends = frame["FLOPs"].between(1.05e18, 0.95e21)
    frame = frame[(frame["kind"] == "moe") | ~ends]
    path = tmp_path / "runs.csv"
    frame.to_csv(path, index=False)
    table = read_runs(path)
    (wanted,) = sentences(table, examine(table.runs, resamples=20))
    (got,) = in_page([path.read_text()], np.zeros((50, 15)))
    assert "save at most a factor of" in wanted
    assert got["said"].split(":")[1] == wanted.split(":")[1]
