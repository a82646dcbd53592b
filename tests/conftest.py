"""Options and order of the whole suite: fast tests, then slow ones, then those of the site."""

from __future__ import annotations

import pytest


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
