"""Figures are reproducible, carry their text alternative, and follow the reader's theme."""

import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from moe_leverage.page import registry, theme

TABLE = pd.DataFrame({"compute": [1e18, 1e20, 1e22], "leverage": [2.0, 4.0, 8.0]})
FINDING = 'EL < 9 & "doubles"'


@pytest.fixture
def sample(monkeypatch):
    monkeypatch.setattr(registry, "ENTRIES", {})

    @registry.figure("sample", paper="Figure 0", caption="A sample.")
    def draw(table):
        fig, ax = plt.subplots()
        ax.loglog(table["compute"], table["leverage"], color=theme.colour("published"))
        ax.set_xlabel("compute $C$ (FLOPs)")
        return registry.Drawing(fig, table, FINDING)

    yield "sample"
    plt.close("all")


def test_the_same_table_gives_the_same_bytes(sample, tmp_path):
    first = registry.save(sample, registry.draw(sample, TABLE), tmp_path / "a")
    second = registry.save(sample, registry.draw(sample, TABLE), tmp_path / "b")
    assert first == second
    for name in ("sample.svg", "sample.png", "sample.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a" / "sample.csv"), TABLE)


def test_inline_svg_has_variables_own_ids_and_a_text_alternative(sample, tmp_path):
    svg = registry.inline(
        registry.save(sample, registry.draw(sample, TABLE), tmp_path), sample, FINDING
    )
    assert 'aria-label="EL &lt; 9 &amp; &quot;doubles&quot;"' in svg
    assert "var(--fig-published, #0369a8)" in svg
    assert "\n\n" not in svg
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert all(i.startswith("sample-") for i in ids)
    assert set(re.findall(r'href="#([^"]+)"', svg)) | set(
        re.findall(r"url\(#([^)]+)\)", svg)
    ) <= set(ids)


def test_no_theme_colour_escapes_the_dark_variant(sample, tmp_path):
    svg = registry.inline(
        registry.save(sample, registry.draw(sample, TABLE), tmp_path), sample, FINDING
    )
    bare = re.sub(r"var\([^)]*\)", "", svg)
    assert not re.findall(r"#[0-9a-f]{6}\b", bare)


def test_unknown_and_repeated_names_are_refused(sample):
    with pytest.raises(ValueError, match=r"^figure = 'other': must be one of sample"):
        registry.draw("other", TABLE)
    with pytest.raises(ValueError, match=r"is already the name of a figure"):
        registry.figure("sample", paper="", caption="")


def test_light_and_dark_colours_are_distinct_and_complete():
    pairs = theme.variables().values()
    lights = [light for light, _ in pairs]
    assert len(set(lights)) == len(lights), "a shared light colour could not be told apart in dark"
    assert all(f"{name}:" in theme.stylesheet() for name in theme.variables())


@pytest.mark.parametrize("word", ["=1+1", "+SUM(A1)", "-2+3", "@now", "\t=1"])
def test_what_a_spreadsheet_would_compute_is_exported_as_text(sample, tmp_path, word):
    table = pd.DataFrame({word: [word, "a-b", "-0.5"], "loss": [-3.0, 2.0, 1.0]})
    drawn = registry.draw(sample, TABLE)
    registry.save(sample, registry.Drawing(drawn.figure, table, FINDING), tmp_path)
    written = pd.read_csv(tmp_path / "sample.csv", dtype=str)
    assert written.to_dict("list") == {
        f"'{word}": [f"'{word}", "a-b", "-0.5"], "loss": ["-3.0", "2.0", "1.0"],
    }  # fmt: skip


def test_a_shown_table_is_exported_by_the_same_rule(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "FIGURE_DIRECTORY", tmp_path)
    registry.show_table("sample", pd.DataFrame({"model": ["@x"]}), "A sample.")
    assert (tmp_path / "sample.csv").read_text() == "model\n'@x\n"
