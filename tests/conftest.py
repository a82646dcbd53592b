"""Options and order of the whole suite: fast tests, then slow ones, then those of the site."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # each core has its tests: their matrices stay on one
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-site",
        action="store_true",
        help="fail, not skip, the tests of the site when it or a browser is missing",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return 2 * bool(item.get_closest_marker("site")) + bool(item.get_closest_marker("slow"))

    items.sort(key=rank)


@pytest.fixture(scope="module")
def every_gate_holds() -> Iterator[None]:
    """Our own laws answer as if no gate of the runs behind them failed."""
    from moe_leverage import paths
    from moe_leverage.analysis import identification
    from moe_leverage.design import prediction

    read = identification.failing_gates
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            identification, "failing_gates", lambda at: {} if at == paths.FITS else read(at)
        )
        prediction._load.cache_clear()
        yield
    prediction._load.cache_clear()


@pytest.fixture(autouse=True)
def the_catalogue_is_as_it_was() -> Iterator[None]:
    """A reader's study that a test registers is no study of the next test."""
    from moe_leverage.studies import catalogue

    yield
    for name in set(catalogue.STUDIES) - catalogue.OURS:
        del catalogue.STUDIES[name]
