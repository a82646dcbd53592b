"""A reader's CSV: what is accepted, what is refused, and that a refusal names row and column."""

import zipfile

import numpy as np
import pandas as pd
import pytest

from moe_leverage.accounting import count_forward_flops, count_parameters
from moe_leverage.config import ModelConfig
from moe_leverage.your_runs import formats, packed
from moe_leverage.your_runs.columns import guess_map
from moe_leverage.your_runs.reading import Choice, read_runs

HEADER = "loss,tokens,flops,A,G\n"
ROWS = "3.0,1e9,1e18,1,2\n2.9,1e9,1e18,0.1,4\n"
SHAPE_HEADER = (
    "val_loss,tokens_b,hidden_size,layers,heads,vocab,seq_len,d_ffn,num_experts,top_k,d_expert"
)
SHAPE_ROWS = ("5.0,1,64,4,4,1024,256,192,0,0,0", "4.9,1,64,4,4,1024,256,0,64,2,64")


def write(tmp_path, text):
    path = tmp_path / "runs.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(tmp_path, text, column_map=None):
    path = write(tmp_path, text)
    if column_map is None:
        return read_runs(path)
    (tmp_path / "map.toml").write_text(column_map)
    return read_runs(path, Choice(column_map=tmp_path / "map.toml"))


def test_axes_table_is_read_with_its_guess_shown(tmp_path):
    table = read(tmp_path, HEADER + ROWS)
    runs = table.runs
    assert runs["is_moe"].tolist() == [False, True]
    assert runs["compute"].tolist() == [1e18, 1e18]
    assert runs["granularity"].tolist() == [2.0, 4.0]
    assert table.mapping.guessed
    assert "column tokens is num_tokens, in tokens" in table.notes
    assert any("shared_ratio is not given" in note for note in table.notes)
    assert 'compute = "flops"' in table.mapping.to_toml()


def test_a_saved_guess_is_a_map_that_reads_the_same(tmp_path):
    guessed = read(tmp_path, HEADER + ROWS)
    mapped = read(tmp_path, HEADER + ROWS, guessed.mapping.to_toml())
    pd.testing.assert_frame_equal(mapped.runs, guessed.runs)
    assert not mapped.mapping.guessed


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + HEADER + ROWS,
        (HEADER + ROWS).replace(",", ";"),
        (HEADER + ROWS).replace(",", "\t"),
        (HEADER + ROWS).replace("\n", "\r\n"),
        'loss , tokens, "flops", A,G\n' + ROWS,
    ],
)
def test_common_dialects_are_the_same_table(tmp_path, text):
    pd.testing.assert_frame_equal(read(tmp_path, text).runs, read(tmp_path, HEADER + ROWS).runs)


def test_shapes_are_counted_exactly(tmp_path):
    table = read(tmp_path, "\n".join([SHAPE_HEADER, *SHAPE_ROWS]))
    sizes = {"vocab_size": 1024, "num_layers": 4, "d_model": 64, "num_heads": 4, "num_kv_heads": 4}
    dense = ModelConfig(**sizes, d_ffn=192)
    moe = ModelConfig(**sizes, num_experts=64, num_active_experts=2, d_expert=64)
    for row, model in enumerate((dense, moe)):
        forward = count_forward_flops(model, 256)
        run = table.runs.iloc[row]
        assert run["compute"] == 3 * forward.total * 1e9
        assert run["flops_per_token"] == forward.non_embedding
        params = count_parameters(model)
        assert run["active_params"] == params.active_non_vocabulary
        assert run["total_params"] == params.non_vocabulary
        assert run["activation_ratio"] == model.activation_ratio
    assert table.runs["granularity"].iloc[1] == 2.0
    assert any("num_kv_heads is not given" in note for note in table.notes)


def test_units_are_converted(tmp_path):
    text = "bits,tok,c,a_pct,G\n4.0,2,1e18,100,2\n3.9,2,1e18,10,4\n"
    units = """
[columns]
loss = "bits"
num_tokens = "tok"
compute = "c"
activation_ratio = "a_pct"
granularity = "G"
[units]
loss = "bits"
num_tokens = "billions"
compute = "forward"
activation_ratio = "percent"
"""
    runs = read(tmp_path, text, units).runs
    np.testing.assert_allclose(runs["loss"], np.array([4.0, 3.9]) * np.log(2))
    assert runs["num_tokens"].tolist() == [2e9, 2e9]
    assert runs["compute"].tolist() == [3e18, 3e18]
    np.testing.assert_allclose(runs["activation_ratio"], [1.0, 0.1])


def test_unit_in_a_column_name_is_guessed():
    headers = ["val_loss_bits", "tokens_billions", "flops_forward", "A", "G"]
    mapping = guess_map(pd.DataFrame(columns=headers))
    assert mapping.units["loss"] == "bits"
    assert mapping.units["num_tokens"] == "billions"
    assert mapping.units["compute"] == "forward"


def test_unfinished_repeated_and_blank_rows_are_left_out_and_named(tmp_path):
    text = "loss,flops,A,G,status\n3,1e18,1,2,ok\n,1e18,.1,2,diverged\n2.9,1e18,.1,2,ok\n"
    table = read(tmp_path, text + "2.9,1e18,.1,2,ok\n\n")
    assert len(table.runs) == 2
    assert "1 run(s) with status diverged were left out: row 3" in table.warnings
    assert "1 row(s) repeat another and count once: row 5" in table.warnings
    assert "1 blank line(s) were left out" in table.warnings


def test_a_loss_in_bits_among_nats_is_warned_of(tmp_path):
    compute = np.geomspace(1e12, 1e14, 20)
    losses = 30 * compute**-0.08
    losses[7] /= np.log(2)
    lines = [f"{loss},{c},1,2" for loss, c in zip(losses, compute, strict=True)]
    table = read(tmp_path, "loss,flops,A,G\n" + "\n".join(lines))
    assert any("row 9 is 1.44 times off" in warning for warning in table.warnings)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"'runs\.csv': is empty"),
        (HEADER, "has a header and no rows"),
        (HEADER + ROWS + "-1,1e9,1e18,.1,4\n", r"row 4, loss = -1\.0: must be between"),
        (HEADER + ROWS + ",1e9,1e18,.1,4\n", "row 4, loss = nan: no loss; leave the row out"),
        (HEADER + ROWS + "inf,1e9,1e18,.1,4\n", "row 4, loss = inf: no loss"),
        (HEADER + ROWS + "abc,1e9,1e18,.1,4\n", "row 4, loss = 'abc': is not a number"),
        (HEADER.replace(",", ";") + "3,0;1e9;1e18;1;2\n", "'3,0': is not a number; decimals"),
        (HEADER + "3.0,1,1e18,1,2\n", r"row 2, num_tokens \(column tokens\) = 1: .* billions\?"),
        (HEADER + ROWS + "2.8,1,1e18,1,2\n", "row 4, num_tokens"),
        (HEADER + "3.0,1e9,1e18,100,2\n", r"row 2, activation_ratio .* = 100: .*percent\?"),
        (HEADER + ROWS + "1,2,3,4,5,6,7\n", "row 4 = '7 cells': the header has 5"),
        (HEADER + ROWS + "2.8,1e9\n", "row 4 = '2 cells': the header has 5"),
        (HEADER + "2.8,1e9,1e18,0.1,\n" + ROWS, "row 2, granularity = nan: an MoE row needs it"),
        ((HEADER + ROWS).encode() + b"2.9,1e9,1e18,0.1,4\xe9\n", "row 4: byte 0xe9 is not UTF-8"),
        ("l\xf6ss,flops\n".encode("latin-1"), "row 1: byte 0xf6 is not UTF-8"),
        ((HEADER + ROWS).encode("utf-16"), "the file is UTF-16"),
        (b"PK\x03\x04\x00", r"runs\.csv: "),
        ("loss,loss\n1,2\n", r"row 1 = \['loss'\]: each column needs a name"),
        ("val_loss,test_loss,flops,A,G\n3,2,1e18,1,2\n", r"\['val_loss', 'test_loss'\]: could"),
        ("flops,A,G\n1e18,1,2\n", "loss = None: not found among flops, A, G"),
        ("loss,A,G\n3,1,2\n", "num_tokens or compute = None: not found"),
        ("loss,tokens,A,G\n3,1e9,1,2\n", "compute = None: not given, and cannot be counted"),
        ("loss,flops\n3,1e18\n", "nothing tells dense from MoE rows"),
        ("loss,flops,A,G,moe\n3,1e18,1,2,maybe\n", "row 2, is_moe = 'maybe': must be one of"),
        ("loss,flops,A,G,status\n3,1e18,1,2,diverged\n", "no run has finished"),
    ],
)  # fmt: skip
def test_refusals_name_row_and_column(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("flops", "reason"),
    [
        (("8e14", "8e14"), r"row 2, compute = 8.*: is 0\.3.* forward FLOPs\? say so"),
        (("8e14", "2.4e15", "2.4e15"), r"row 2, compute = 8.*other rows .*: mixed units"),
        (("1e18", "1e18"), "row 2, compute"),
    ],
)
def test_compute_in_another_convention_than_said_is_refused(tmp_path, flops, reason):
    rows = [*SHAPE_ROWS, SHAPE_ROWS[1].replace("4.9", "4.8")]
    lines = [f"{row},{c}" for row, c in zip(rows, flops, strict=False)]
    with pytest.raises(ValueError, match=reason):
        read(tmp_path, "\n".join([f"{SHAPE_HEADER},flops", *lines]))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (SHAPE_ROWS[1].replace(",64,2,64", ",4,8,64"), "num_active_experts = 8.0: exceeds"),
        (SHAPE_ROWS[1].replace("64,4,4", "62,4,4"), "row 2, d_model = 62"),
        (
            SHAPE_ROWS[1].replace("64,4,4", "64.5,4,4"),
            r"row 2, d_model \(column hidden_size\) = 64\.5: must be a whole",
        ),
        (SHAPE_ROWS[1].replace("4.9", "7.9"), r"row 2, loss = 7\.9: exceeds ln\(vocabulary\)"),
    ],
)
def test_impossible_shapes_are_refused(tmp_path, rows, reason):
    with pytest.raises(ValueError, match=reason):
        read(tmp_path, f"{SHAPE_HEADER}\n{rows}\n")


def test_axes_that_contradict_their_sizes_are_refused(tmp_path):
    text = f"{SHAPE_HEADER},A\n{SHAPE_ROWS[1]},0.5\n"
    with pytest.raises(ValueError, match=r"row 2, activation_ratio = 0\.5: differs from"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("column_map", "reason"),
    [
        ('[columns]\nloss = "nope"\n', "column loss = 'nope': is not in the file, which has loss"),
        ('[columns]\nlosss = "loss"\n', r"--map \[columns\] losss = 'loss': is not known"),
        ('[columns]\nloss = "loss"\ncompute = "flops"\n[units]\nloss = "bytes"\n',
         "loss = 'bytes': must be one of nats, bits"),
        ('[columns]\nloss = "loss"\ncompute = "flops"\n[units]\nnum_tokens = "billions"\n',
         "num_tokens = 'billions': has no unit, or no column"),
        ("[colums]\n", "map.toml = 'colums': is no known table"),
        ("columns = ", "map.toml: "),
        ("columns = 3", r"--map \[columns\] = 3: must be a table of names"),
        ('columns = ["loss"]', r"--map \[columns\] = \['loss'\]: must be a table of names"),
        ('units = "nats"', r"--map \[units\] = 'nats': must be a table of names"),
        ("columns.loss = 3", r"--map \[columns\] loss = 3: must be text"),
        ("columns.loss.deep = 'x'", r"--map \[columns\] loss = .*: must be text"),
        ("units.loss = ['nats']", r"--map \[units\] loss = \['nats'\]: must be text"),
        (f"columns = {'[' * 5000}", "map.toml: "),
        (
            '[columns]\nloss = "loss"\nnum_tokens = "loss"\n',
            "column loss = 'loss': is loss and num_tokens at once; name a column of its own",
        ),
    ],
)  # fmt: skip
def test_bad_maps_are_refused(tmp_path, column_map, reason):
    with pytest.raises(ValueError, match=reason):
        read(tmp_path, HEADER + ROWS, column_map)


@pytest.mark.parametrize(
    ("library", "name", "write"),
    [("pyarrow", "runs.parquet", "to_parquet"), ("openpyxl", "runs.xlsx", "to_excel")],
)
def test_parquet_and_excel_read_as_csv_does(tmp_path, library, name, write):
    pytest.importorskip(library, reason="an extra: pip install 'moe-leverage[tables]'")
    csv = tmp_path / "runs.csv"
    csv.write_text(HEADER + ROWS)
    getattr(pd.read_csv(csv), write)(tmp_path / name, index=False)
    found, expected = read_runs(tmp_path / name).runs, read_runs(csv).runs
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


@pytest.mark.parametrize(
    "kind", ["a large sheet", "a far cell", "long cells", "equal rows", "long texts"]
)
def test_what_a_small_file_unpacks_to_is_told_before_it_is_read(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(packed, "LARGEST_TABLE", 8 << 20)
    reason = "an extra: pip install 'moe-leverage[tables]'"
    path = tmp_path / "runs"
    if kind == "a large sheet":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
            book.writestr("xl/worksheets/sheet1.xml", bytes(9 << 20))
    elif kind in ("a far cell", "long cells"):
        book = pytest.importorskip("openpyxl", reason=reason).Workbook()
        book.active.append(["loss"])
        if kind == "a far cell":
            book.active.cell(1_000, 10_000, 1)
        for _ in range(300 if kind == "long cells" else 0):
            book.active.append(["x" * 32_000])
        book.save(path)
    else:
        arrow = pytest.importorskip("pyarrow", reason=reason)
        rows = arrow.table({"loss": arrow.array(np.full(10**5, 3.1))})
        copies = [rows] * 11
        if kind == "long texts":
            places = arrow.array(np.zeros(100, dtype="int32"))
            text = arrow.DictionaryArray.from_arrays(places, ["x" * 100_000])
            copies = [rows[:100].append_column("note", text)]
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.concat_tables(copies), path, store_schema=False)
    assert path.stat().st_size < 1 << 18
    with pytest.raises(ValueError, match=r"^RUNS = 'runs': unpacks to [\d,]+ MB, more than 8"):
        formats.read_cells(path)


@pytest.mark.parametrize("library", ["pyarrow", "openpyxl"])
def test_a_library_that_is_not_there_is_named_with_its_extra(tmp_path, monkeypatch, library):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(packed, "_library", absent)
    path = tmp_path / "runs"
    with zipfile.ZipFile(path, "w") as workbook:
        workbook.writestr("sheet.xml", "")
    if library == "pyarrow":
        path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=rf"{library} is not installed.*moe-leverage\[tables\]"):
        read_runs(path)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a file"):
        read_runs(tmp_path)
    with pytest.raises(ValueError, match="is not a file"):
        read_runs(tmp_path / "absent.csv")


@pytest.mark.slow
def test_a_file_of_200_megabytes_is_read(tmp_path):
    path = tmp_path / "runs.csv"
    line = "{:.6f},1000000000,1e18,0.1,4,a note that nobody maps and that only takes up room\n"
    block = "".join(line.format(2 + i * 1e-6) for i in range(100_000))
    with path.open("w") as file:
        file.write("loss,tokens,flops,A,G,note\n")
        for _ in range(25):
            file.write(block)
    assert path.stat().st_size > 200e6
    table = read_runs(path)
    assert len(table.runs) == 100_000
    assert "2400000 row(s) repeat another" in table.warnings[0]


@pytest.mark.parametrize(
    ("factor", "is_taken"), [(0.8, True), (1.3, True), (1.5, False), (0.6, False)]
)
def test_compute_may_differ_from_its_count_as_conventions_do(tmp_path, factor, is_taken):
    header = "loss,tokens,flops_per_token,flops,A,G\n"
    rows = [f"{loss},1e9,1e8,{factor * 3e17},{a},2" for loss, a in ((3.0, 1), (2.9, 0.1))]
    if is_taken:
        assert len(read(tmp_path, header + "\n".join(rows)).runs) == 2
    else:
        with pytest.raises(ValueError, match=r"row 2, compute"):
            read(tmp_path, header + "\n".join(rows))


def test_mixtures_at_twice_the_convention_of_dense_rows_are_mixed_units(tmp_path):
    rows = [
        f"{3 - tokens / 1e11},{tokens},1e8,{factor * 3e8 * tokens},{a},2"
        for a, factor in ((1, 1.0), (0.1, 2.2)) for tokens in (1e9, 2e9, 4e9)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="mixed units"):
        read(tmp_path, "\n".join(["loss,tokens,flops_per_token,flops,A,G", *rows]))


@pytest.mark.parametrize(("given", "is_taken"), [(0.0515, True), (0.0480, True), (0.0535, False)])
def test_an_axis_may_differ_by_a_twentieth_from_what_the_sizes_give(tmp_path, given, is_taken):
    header = "loss,tokens,flops,A,G,S,num_experts,top_k,num_shared_experts\n"
    rows = ["3.0,1e9,1e18,1,2,0,0,0,0", f"2.9,1e9,1e18,{given},4,0,60,3,0"]
    if is_taken:
        assert len(read(tmp_path, header + "\n".join(rows)).runs) == 2
    else:
        with pytest.raises(ValueError, match=r"row 3, activation_ratio = 0\.0535: differs from"):
            read(tmp_path, header + "\n".join(rows))


@pytest.mark.parametrize(
    "cell",
    ["3.0 ± 0.01", "3.0±0.01", "3.0 (±0.01)", "3.0 +/- 1e-2", r"$3.0 \pm 0.01$", "3.0(1)"],
)
def test_the_error_beside_a_value_is_not_read_and_said_not_to_be(tmp_path, cell):
    table = read(tmp_path, HEADER + ROWS.replace("3.0", cell))
    assert table.runs["loss"].tolist() == [3.0, 2.9]
    assert [note for note in table.notes if "1 cell(s)" in note and "loss" in note]


@pytest.mark.parametrize("cell", ["3.0 ±", "± 3.0", "3.0 ± a bit", "3.0 - 3.1", "3.0 (2.9)"])
def test_what_is_no_value_with_its_error_is_refused(tmp_path, cell):
    with pytest.raises(ValueError, match=r"row 2, loss = .* is not a number"):
        read(tmp_path, HEADER + ROWS.replace("3.0", cell))


@pytest.mark.parametrize(
    "cell", ["10^18", "1.0 x 10^18", "1×10¹⁸", "1*10**18", r"$1.0\times10^{18}$", "1 × 10^18 FLOPs"]
)
def test_powers_of_ten_are_read(tmp_path, cell):
    table = read(tmp_path, HEADER + ROWS.replace("1e18", cell))
    assert table.runs["compute"].tolist() == [1e18, 1e18]


NAMED = "run,loss,tokens,flops,A,G\na,3.0,1e9,1e18,1,2\nb,2.9,1e9,1e18,0.1,4\n"


@pytest.mark.parametrize(
    "foot",
    [
        "mean,2.95,,,,\n",
        "Average:,2.95,1e9,1e18,0.5,3\n",  # told by the first column alone
        ",2.95,TOTAL,,,\n",
        "count,2,2,2,2,2\nmean,2.95,1e9,1e18,0.5,3\nstd. dev.,0.07,,,,\n",
    ],
)
def test_rows_that_sum_up_the_others_are_left_out_by_name(tmp_path, foot):
    table = read(tmp_path, NAMED + foot)
    assert table.runs["loss"].tolist() == [3.0, 2.9]
    assert [
        warning for warning in table.warnings if "row 4" in warning and "none itself" in warning
    ]


@pytest.mark.parametrize(
    "text",
    [
        "# exported in May\n# by hand, twice\n" + NAMED,
        NAMED.replace("run,", "# run,"),
        NAMED.replace("\n", ",\n").replace("G,\n", "G\n"),  # rows that end with a comma
        NAMED.replace("1,2\n", "1,2\nrun,loss,tokens,flops,A,G\n"),  # two files, one after another
        NAMED.replace("1e9", "1").replace("1e18", "1").replace("G\n", "G\n,,(B),(EFLOP),,\n"),
        NAMED.replace("2.9", "2.9*") + "* with a larger batch,,,,,\n",
        "The runs of May.\n\n| run | loss | tokens | flops | A | G |\n|:--|--:|--|--|--|--|\n"
        "| a | 3.0 | 1e9 | 1e18 | 1 | 2 |\n| b | 2.9 | 1e9 | 1e18 | 0.1 | 4 |\n\nThat was May.\n",
        '{"loss": {"0": 3.0, "1": 2.9}, "tokens": {"0": 1e9, "1": 1e9}, "flops": {"0": 1e18, '
        '"1": 1e18}, "A": {"0": 1, "1": 0.1}, "G": {"0": 2, "1": 4}}',
    ],
)
def test_what_stands_around_the_runs_is_no_run(tmp_path, text):
    runs = read(tmp_path, text).runs
    assert runs["loss"].tolist() == [3.0, 2.9]
    assert runs["compute"].tolist() == [1e18, 1e18]
    assert runs["num_tokens"].tolist() == [1e9, 1e9]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("run loss tokens flops\na 3.0 1e9 1e18\n", "no comma, semicolon or tab separates"),
        ("| loss |\n|---|\n| 3 |\n\n| loss |\n|---|\n| 2 |\n", "has several tables"),
        (HEADER + ROWS.replace("3.0", "diverged"), "a run that did not end"),
    ],
)
def test_tables_that_are_refused_for_their_form_say_so(tmp_path, text, rule):
    with pytest.raises(ValueError, match=rule):
        read(tmp_path, text)


def test_a_setting_that_is_called_like_a_summary_is_a_run(tmp_path):
    table = read(tmp_path, "loss,pooling,tokens,flops,A,G\n3.0,max,1e9,1e18,1,2\n"
                 "2.9,mean,1e9,1e18,0.1,4\n")  # fmt: skip
    assert table.runs["loss"].tolist() == [3.0, 2.9]


def test_a_row_without_tokens_is_told_that_it_has_none(tmp_path):
    with pytest.raises(ValueError, match=r"row 4, num_tokens .column tokens. = nan: is blank"):
        read(tmp_path, NAMED + ",2.95,,,,\n")


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("800M tokens", 8e8),
        ("0.8BT", 8e8),
        ("~800M", 8e8),
        ("800 000 000", 8e8),
        ("8e8 tokens", 8e8),
    ],
)
def test_counts_as_people_write_them(tmp_path, cell, value):
    runs = read(tmp_path, HEADER + ROWS.replace("3.0,1e9", f"3.0,{cell}")).runs
    assert runs["num_tokens"].tolist() == [value, 1e9]


@pytest.mark.parametrize(("factor", "is_told"), [(1.0, False), (1.4427, True), (0.6931, True)])
def test_mixtures_in_another_unit_than_the_dense_runs_are_warned_of(tmp_path, factor, is_told):
    dense = [(1e18 * 10**k, 3.0 * 0.9**k) for k in range(4)]
    rows = [f"{loss},1e9,{c},1,2" for c, loss in dense]
    rows += [f"{0.95 * factor * loss},1e9,{c},0.1,4" for c, loss in dense]
    table = read(tmp_path, HEADER + "\n".join(rows) + "\n")
    assert any("another unit" in warning for warning in table.warnings) == is_told


@pytest.mark.parametrize("header", ["log10(C),log10 tokens", "Log10_FLOPs,log10(D)"])
def test_logarithms_to_the_base_of_ten_are_read_as_what_they_are_of(tmp_path, header):
    table = read(tmp_path, f"loss,{header},A,G\n3.0,18,9,1,2\n2.9,18.30103,9.5,0.1,4\n")
    assert table.runs["compute"].tolist() == pytest.approx([1e18, 2e18])
    assert table.runs["num_tokens"].tolist() == pytest.approx([1e9, 10**9.5])
    assert (table.mapping.units["compute"], table.mapping.units["num_tokens"]) == ("log10", "log10")


def test_a_count_under_the_name_of_its_logarithm_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"row 2.*compute"):
        read(tmp_path, "loss,log10(C),tokens,A,G\n3.0,1e18,1e9,1,2\n2.9,1e18,1e9,0.1,4\n")
    with pytest.raises(ValueError, match="compute"):  # of another base, or of none that is said
        read(tmp_path, "loss,log C,A,G\n3.0,18,1,2\n2.9,18,0.1,4\n")


def test_of_two_losses_the_one_on_held_out_text_is_proposed(tmp_path):
    with pytest.raises(ValueError, match=r"--column loss='eval/loss'$"):
        read(tmp_path, "train/loss,eval/loss,flops,A,G\n2.9,3.0,1e18,1,2\n2.8,2.9,1e18,0.1,4\n")
