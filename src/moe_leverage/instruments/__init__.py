"""What the site's interactive pages are given: data written at build, nothing typed twice.

`SCRIPTS` names each file that the build writes into the site beside the hand-written scripts, and
the function that returns its text. They are scripts, because a page opened as a file may not fetch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from moe_leverage.instruments import (
    calculator,
    explorer,
    gallery,
    printed_laws,
    refit,
    router,
    your_table,
)

SCRIPTS: Mapping[str, Callable[[], str]] = {
    "leverage-data.js": calculator.script,
    "gallery-data.js": gallery.script,
    "printed-laws-data.js": printed_laws.script,
    "explorer-data.js": explorer.index_script,
    "refit-data.js": refit.script,
    "router-data.js": router.script,
    "table-data.js": your_table.script,
} | {
    f"explorer-{study}.js": partial(explorer.details_script, study)  # loaded as a run is opened
    for study in explorer.study_names()
}
