"""The transcription of Tables 1 to 11: row counts, totals, known cells, misprints as printed."""

from __future__ import annotations

import pandas as pd
import pytest

from moe_leverage import paper

ROWS = {1: 2, 2: 1, 3: 2, 4: 40, 5: 13, 6: 11, 7: 48, 8: 36, 9: 36, 10: 24, 11: 30}
BUDGETS = [2e18, 6e18, 2e19, 6e19, 2e20, 6e20]


@pytest.mark.parametrize("number", ROWS)
def test_every_table_is_whole_and_described(number: int) -> None:
    table = paper.table(number)
    assert len(table) == ROWS[number]
    assert f"Table {number}" in table.attrs["locator"]
    assert len(table.attrs["caption"]) > 20
    assert set(table.attrs["units"]) == set(table.columns)
    assert not table.duplicated().any()
    if number != 3:
        assert table.notna().all(axis=None)


@pytest.mark.parametrize("number", [7, 8, 9, 10, 11])
def test_model_lists_have_six_equal_groups(number: int) -> None:
    sizes = paper.table(number).groupby("training_flops").size()
    assert sizes.index.tolist() == BUDGETS
    assert len(set(sizes)) == 1


@pytest.mark.parametrize(
    ("number", "row", "column", "value"),
    [
        (1, 1, "model_coefficient", 0.1915),
        (2, 0, "d", -0.0761),
        (2, 0, "a_max", 5.28e16),
        (3, 1, "d_ffn", 5120),
        (3, 1, "active_params_billions", 0.85),
        (4, 4, "ling_mini_beta_score", 35.7),
        (6, 4, "share_percent", 25.0),
        (7, 0, "d_expert", 320),
        (8, 0, "d_expert", 384),
        (8, 35, "d_expert", 160),
        (9, 22, "num_shared_experts", 2),
        (10, 3, "num_moe_layers", 57),
        (11, 15, "learning_rate", 9.5e-3),
        (11, 29, "d_expert", 816),
    ],
)
def test_known_cells(number: int, row: int, column: str, value: float) -> None:
    assert paper.table(number).loc[row, column] == value


def test_totals_of_the_transcription() -> None:
    assert paper.table(6)["share_percent"].sum() == pytest.approx(100.0)
    scores = paper.table(4)
    benchmarks = scores[scores["row"] == "benchmark"]
    assert benchmarks.groupby("category", sort=False).size().tolist() == [9, 6, 2, 8, 9]
    # Column sums, added up from the printed table.
    assert benchmarks["dense_6_1b_score"].sum() == pytest.approx(1496.9)
    assert benchmarks["ling_mini_beta_score"].sum() == pytest.approx(1548.5)
    layers = paper.table(10)
    assert (layers["num_dense_layers"] + layers["num_moe_layers"] == layers["num_layers"]).all()


def test_missing_counts_stay_whole_numbers() -> None:
    shapes = paper.table(3)
    assert str(shapes["d_expert"].dtype) == "Int64"
    assert shapes["d_expert"].isna().tolist() == [True, False]


def test_notes_keep_the_misprints_as_printed() -> None:
    assert set(paper.notes()["table"]) == {3, 7, 8, 9, 10, 11}
    assert paper.notes(9)["printed"].tolist()[0] == "2"
    assert paper.notes(1).empty


def test_a_table_is_a_copy() -> None:
    changed = paper.table(2)
    changed.loc[0, "a"] = 0.0
    assert paper.table(2).loc[0, "a"] == 1.23


@pytest.mark.parametrize("number", [0, 12, "3"])
def test_unknown_table_is_named(number: object) -> None:
    with pytest.raises(ValueError, match=f"table = {number!r}: must be from 1 to 11"):
        paper.table(number)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", paper.MODEL_TABLES)
def test_every_row_is_a_model(number: int) -> None:
    models = paper.models(number)
    assert len(models) == ROWS[number]
    for model, row in zip(models, paper.table(number).to_dict("records"), strict=True):
        assert (model.num_layers, model.d_model) == (row["num_layers"], row["d_model"])
        assert model.vocab_size == 126_464


def test_axes_of_the_listed_models() -> None:
    assert {m.granularity for m in paper.models(9)} == {8.0}
    assert [m.activation_ratio for m in paper.models(7)[:2]] == [1.0, 0.6]
    assert paper.models(10)[3].num_moe_layers == 57
    with pytest.raises(ValueError, match="table = 4: must be one of 3, 7, 8"):
        paper.models(4)


def test_printed_cells_keep_their_digits() -> None:
    assert paper.printed(7).loc[47, "learning_rate"] == "7.0e-4"
    assert paper.printed(3).loc[0, "d_expert"] == ""


@pytest.mark.parametrize("number", paper.MODEL_TABLES)
def test_counts_stand_beside_the_printed_cells(number: int) -> None:
    found, cells = paper.counted(number), paper.table(number)
    pd.testing.assert_frame_equal(found[list(cells)], cells, check_like=False)
    assert found.columns.is_unique
    short = paper.counted(number, 1)
    assert (short["attention_share"] < found["attention_share"]).all()
    assert short["projection_share"].tolist() == pytest.approx(found["projection_share"].tolist())
