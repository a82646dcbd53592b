"""The open record of every run: its files, and one table of them."""

from moe_leverage.ledger.file import (
    DIRECTORY,
    PLANS,
    RESULTS,
    SCHEMA,
    STATUSES,
    Standing,
    append,
    describe,
    find,
    records,
    standing,
    verify,
    write_plans,
)
from moe_leverage.ledger.table import load

__all__ = [
    "DIRECTORY",
    "PLANS",
    "RESULTS",
    "SCHEMA",
    "STATUSES",
    "Standing",
    "append",
    "describe",
    "find",
    "load",
    "records",
    "standing",
    "verify",
    "write_plans",
]
