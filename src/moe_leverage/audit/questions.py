"""Twelve places where printed numbers do not obviously agree, settled by computation.

Each lead is a question, a small table that answers it, and a paragraph whose numbers are computed:
what was found and what follows for someone who uses the law.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from moe_leverage.audit import questions_counts as leads_counts
from moe_leverage.audit import questions_law as leads_law
from moe_leverage.rules import require


@dataclass(frozen=True, kw_only=True, slots=True)
class Lead:
    """One question about the printed numbers, its table and its answer."""

    number: int
    question: str
    table: pd.DataFrame
    paragraph: str


def lead(number: int) -> Lead:
    """One lead by its number, 1 to 12.

    >>> float(lead(3).table.loc[0, "efficiency_leverage"].round(4))
    0.9961
    """
    known = isinstance(number, int) and 1 <= number <= len(_LEADS)
    require(known, "lead", number, f"must be from 1 to {len(_LEADS)}")
    question, settle = _LEADS[number - 1]
    table, paragraph = settle()
    return Lead(number=number, question=question, table=table, paragraph=paragraph)


def leads() -> tuple[Lead, ...]:
    """All twelve, in order."""
    return tuple(lead(number) for number in range(1, len(_LEADS) + 1))


_LEADS: tuple[tuple[str, Callable[[], tuple[pd.DataFrame, str]]], ...] = (
    ("Which logarithm bases does the joint law take?", leads_law.logarithm_bases),
    ("Is d positive or negative?", leads_law.sign_of_d),
    ("Does a dense model have EL = 1?", leads_law.dense_limit),
    ("Which activation ratio goes into the law?", leads_law.activation_conventions),
    ("Is M one forward pass or three?", leads_counts.meaning_of_m),
    ("Does Eq. 14 lack a factor 2?", leads_counts.attention_factor),
    ("How much do the logits weigh?", leads_counts.logits_share),
    ("At which compute does Eq. 3 return the listed batches and rates?",
     leads_counts.implied_budgets),
    ("Which budget do Ling-mini-beta's settings imply?", leads_counts.ling_mini_beta_budget),
    ("Which printed cells contradict one another?", leads_counts.misprints),
    ("Below which compute do sparse models lose?", leads_law.break_even),
    ("Is Ling-mini-beta's first layer dense?", leads_counts.first_layer),
)  # fmt: skip
