"""A failed write never replaces or litters what was there."""

import os

import pytest

from moe_leverage import paths


def test_a_failed_write_leaves_the_good_file(tmp_path, monkeypatch):
    good = tmp_path / "figure.csv"
    paths.write_atomically(good, "good")

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        paths.write_atomically(good, "half")
    assert good.read_text() == "good"
    assert [p.name for p in tmp_path.iterdir()] == ["figure.csv"]
