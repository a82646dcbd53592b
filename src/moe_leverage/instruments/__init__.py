"""What the site's interactive pages are given: data written at build, nothing typed twice.

`SCRIPTS` names each file that the build writes into the site beside the hand-written scripts, and
the function that returns its text. They are scripts, because a page opened as a file may not fetch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from moe_leverage.instruments import calculator

SCRIPTS: Mapping[str, Callable[[], str]] = {
    "leverage-data.js": calculator.script,
}
