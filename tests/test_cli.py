"""The command line as a whole: its version and its help, before any verb."""

from __future__ import annotations

import sys

import pytest

from moe_leverage import __version__, cli


def test_the_version_is_printed_without_a_verb(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["moe-leverage", "--version"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert capsys.readouterr() == (f"moe-leverage {__version__}\n", "")
