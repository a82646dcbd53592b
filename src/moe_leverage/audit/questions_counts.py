"""Seven leads on what was counted: M, Eq. 14, logits, budgets, misprints, Table 3 (Appendix C, F).

Each function returns a small table and a paragraph with computed numbers: what was found, and what
follows for someone who uses the laws or rebuilds a model.

    M    non-embedding FLOPs of one token's forward pass      C    training compute, FLOPs
    D    training tokens                                      B    batch      eta    learning rate
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd

from moe_leverage import paper
from moe_leverage.accounting import (
    CONVENTIONS,
    TRAINING_PASSES,
    count_forward_flops,
    count_parameters,
)
from moe_leverage.audit.listed import IN_WORDS, listed, token_multiple
from moe_leverage.config import PAPER_SEQUENCE_LENGTH
from moe_leverage.theory import allocation
from moe_leverage.theory.laws import PUBLISHED

LARGEST_RATE_SEARCHED = 2.0**-9  # Section 2.2
LING_RATE, LING_BATCH_SEQUENCES, LING_TOKENS = 3.78e-4, 1792, 1e12  # Section 5.1
LING_ACTIVE_BILLIONS = 0.855  # Section 5

Settled = tuple[pd.DataFrame, str]


def meaning_of_m() -> Settled:
    """Tokens over optimal tokens if M is one or three forward passes."""
    readings = {"one in both": (1, 1), "one in Table 1, three in budgets": (1, 3),
                "three in both": (3, 3)}  # fmt: skip
    rows = []
    for (name, passes), number in product(readings.items(), (7, 8, 9, 11)):
        multiple = token_multiple(listed(number), *passes)
        rows.append((name, number, multiple.min(), multiple.median(), multiple.max()))
    table = pd.DataFrame(rows, columns=["forward_passes_in_m", "table", "min", "median", "max"])
    one, mixed, three = table.groupby("forward_passes_in_m", sort=False)["median"].median()
    text = (
        "Section 4 trains every model on more than three times its optimal tokens. With M of "
        f"Table 1 read as three forward passes the listed models are at {three:.1f} times "
        f"(median), with one forward pass at {one:.0f} times, with one in Table 1 and three in the "
        f"printed budgets at {mixed:.0f} times. {allocation.why()}"
    )
    return table, text


def attention_factor() -> Settled:
    """Spread of M inside the groups of Table 11 under four counts, and what Eq. 14 leaves out."""
    models, budgets = paper.models(11), paper.table(11)["training_flops"]
    counts = [count_forward_flops(model, PAPER_SEQUENCE_LENGTH) for model in models]
    rows = []
    for of_projections, of_scores in product((1.0, 0.5), (1.0, 0.5)):
        attention = np.array([of_projections * f.attention_projections
                              + of_scores * f.attention_scores for f in counts])  # fmt: skip
        rest = np.array([f.routed_experts + f.shared_experts + f.router for f in counts])
        groups = pd.Series(attention + rest).groupby(budgets)
        spread = 100 * (groups.max() / groups.min() - 1)
        share = attention / (attention + rest)
        rows.append((2 * of_projections, of_scores, spread.max(), 100 * share.min(),
                     100 * share.max()))  # fmt: skip
    names = ["flops_per_product", "scores_counted", "spread_of_m_percent",
             "least_attention_percent", "most_attention_percent"]  # fmt: skip
    table = pd.DataFrame(rows, columns=names)
    best, printed = table.iloc[0], table.iloc[2]
    seven = listed(7).groupby("training_flops").first()
    short = 100 * (1 - seven["printed_flops_per_token"] / seven["flops_per_token"])
    text = (
        "Table 11 moves compute between attention and FFN at constant M, so it tells how M was "
        f"counted: with two FLOPs a multiply-add and scores over the full square M is constant "
        f"to {best['spread_of_m_percent']:.2f} percent, with Eq. 14 as printed only to "
        f"{printed['spread_of_m_percent']:.1f}. The authors computed with the factor 2 and "
        f"Eq. 14 lost it. Used as printed it understates M by {short.min():.0f} to "
        f"{short.max():.0f} percent, more for larger models. By the count that fits, the listed "
        f"models spend {best['least_attention_percent']:.0f} to "
        f"{best['most_attention_percent']:.0f} percent of M on attention, not 20 to 50: none of "
        "the four counts gives the range of the text, so its 30 to 40 percent needs another "
        "definition, which is not given."
    )
    return table, text


def logits_share() -> Settled:
    """Share of the logit projection in a forward pass, by size."""
    groups = listed(7).groupby("training_flops")
    shares = {
        "d_model": groups["d_model"].first(),
        "logits_percent": 100 * groups["logits_share"].mean(),
        "compute_ratio": 1 / (1 - groups["logits_share"].mean()),
    }
    table = pd.DataFrame(shares).reset_index()
    first, last = table.iloc[0], table.iloc[-1]
    exponent = math.log(last["compute_ratio"] / first["compute_ratio"]) / math.log(
        last["training_flops"] / first["training_flops"]
    )
    text = (
        f"The logit projection is {first['logits_percent']:.0f} percent of a forward pass of the "
        f"smallest model of Table 7 and {last['logits_percent']:.0f} percent of the largest. "
        f"Counted, as Eq. 16 does and Section 2.1 does not, it multiplies C by "
        f"{first['compute_ratio']:.2f} and {last['compute_ratio']:.2f}. It costs a dense and an "
        "MoE model of equal width the same, so counting it pulls their ratio of computes, and EL, "
        "toward 1. Exponents change too: C with logits grows as C without to the power "
        f"{1 + exponent:.2f} over these models. Compare budgets in one convention only."
    )
    return table, text


def implied_budgets() -> Settled:
    """The compute at which Eq. 3 returns the printed batch and learning rate, over the budget."""
    groups = paper.table(7).drop_duplicates("training_flops").reset_index(drop=True)
    budget = groups["training_flops"]
    batch_tokens = groups["batch_sequences"] * PAPER_SEQUENCE_LENGTH
    table = groups[["training_flops", "batch_sequences", "learning_rate"]].copy()
    table["batch_implies_flops"] = PUBLISHED.batch_tokens.compute_for(batch_tokens)
    table["rate_implies_flops"] = PUBLISHED.learning_rate.compute_for(groups["learning_rate"])
    table["batch_ratio"] = table["batch_implies_flops"] / budget
    table["rate_ratio"] = table["rate_implies_flops"] / budget
    batch, rate = table["batch_ratio"], table["rate_ratio"]
    text = (
        f"The batches of Tables 7 to 10 are those of Eq. 3 at {batch.min():.2f} to "
        f"{batch.max():.2f} times the printed budget: nearly constant. The learning rates are "
        f"those at {rate.max():.1f} times the budget in the first group and {rate.min():.1f} in "
        "the last: not constant, so they follow another exponent. At the largest budget both imply "
        f"the same compute, {table['batch_implies_flops'].iloc[-1]:.2e} FLOPs. The runs therefore "
        "did not use Eq. 3 at the printed C. The difference is at most "
        f"{100 * (PUBLISHED.learning_rate(budget[0]) / groups['learning_rate'][0] - 1):.0f} "
        "percent in the rate and a quarter in the batch; whether that costs loss depends on the "
        "width of the near-optimal band, which is not printed. Anyone who extends the ladder must "
        "choose one of the two rules."
    )
    return table, text


def ling_mini_beta_budget() -> Settled:
    """The compute that Ling-mini-beta's settings imply, against a trillion tokens."""
    model = paper.models(3)[1]
    rows = [
        (f"{convention}, {sequence} tokens, {IN_WORDS[part]}",
         TRAINING_PASSES * LING_TOKENS
         * getattr(count_forward_flops(model, sequence, convention), part))
        for convention, sequence, part in product(
            CONVENTIONS, (PAPER_SEQUENCE_LENGTH, paper.LONG_SEQUENCE_LENGTH),
            ("non_embedding", "total"))
    ]  # fmt: skip
    for sequence in (PAPER_SEQUENCE_LENGTH, paper.LONG_SEQUENCE_LENGTH):
        implied = PUBLISHED.batch_tokens.compute_for(LING_BATCH_SEQUENCES * sequence)
        rows.append((f"implied by B = {LING_BATCH_SEQUENCES} x {sequence} tokens", implied))
    rows.append((f"implied by eta = {LING_RATE:g}", PUBLISHED.learning_rate.compute_for(LING_RATE)))
    table = pd.DataFrame(rows, columns=["reading", "training_flops"]).drop_duplicates()
    value = table.set_index("reading")["training_flops"]
    spent = value["exact, 8192 tokens, without logits"]
    whole = value["exact, 8192 tokens, with logits"]
    short, long = value.iloc[-3], value.iloc[-2]
    text = (
        f"A trillion tokens cost Ling-mini-beta {spent:.2e} FLOPs without logits and "
        f"{whole:.2e} with them, the 1e22 of the text. Its batch is "
        f"that of Eq. 3 at {short:.2e} if the 1792 sequences have 4,096 tokens, and at {long:.1e} "
        "with the 8K of Section 5.1: the batch was most likely derived for 4K sequences. Its "
        f"learning rate implies {value.iloc[-1]:.1e}, {value.iloc[-1] / spent:.0f} times what was "
        "spent. Whoever copies 1792 and 3.78e-4 copies a rate a quarter below the law and a batch "
        "of twice its size in tokens."
    )
    return table, text


def misprints() -> Settled:
    """Cells that contradict other cells, kept as printed."""
    table = paper.notes()
    narrow = listed(7).iloc[0]["granularity"]
    beyond = paper.table(11)["learning_rate"].max() / LARGEST_RATE_SEARCHED
    text = (
        f"{len(table)} places in Tables 3 to 11 contradict another place or need a word. The one "
        "that can hurt is the learning-rate column of Table 11, ten times that of Table 7 from the "
        f"fourth group on, up to {beyond:.1f} times the largest rate of the search. The first "
        "group of Table 7 is at "
        f"G = {narrow:.1f} instead of 2, which the law values at "
        f"{100 * (_at_granularity(narrow) / _at_granularity(2.0) - 1):+.1f} percent of EL. The odd "
        "row of Table 9 has thirteen active experts, and Table 10's dense layers are a third wider "
        "than its text says. Rebuild a study from its axes, not from these cells."
    )
    return table, text


def first_layer() -> Settled:
    """Parameters of Ling-mini-beta with none, one or two dense first layers, and of Dense-6.1B."""
    dense, ling = paper.models(3)
    shapes = {"Dense-6.1B": dense} | {
        f"Ling-mini-beta, {n} dense": replace(ling, num_dense_layers=n) for n in (0, 1, 2)
    }
    rows = []
    for name, model in shapes.items():
        count = count_parameters(model)
        sizes = (count.non_vocabulary, count.active_non_vocabulary, count.total, count.active)
        rows.append((name, *(size / 1e9 for size in sizes)))
    names = ["model", "total_billions", "active_billions", "total_with_vocabulary_billions",
             "active_with_vocabulary_billions"]  # fmt: skip
    table = pd.DataFrame(rows, columns=names)
    none, one = table.iloc[1], table.iloc[2]
    short = 100 * (LING_ACTIVE_BILLIONS / one["active_billions"] - 1)
    text = (
        f"One dense first layer gives {one['total_billions']:.2f} billion parameters outside the "
        f"vocabulary, the printed 17.5; none gives {none['total_billions']:.2f}. The dense model "
        f"counts {table.iloc[0]['total_billions']:.3f} billion, the printed 6.11, so N leaves the "
        f"vocabulary out in both. The active count is {one['active_billions']:.3f} billion, and "
        f"the printed 0.855 is {short:.1f} percent above: no choice of first layers returns it. "
        "Rebuild the model with one dense layer, and quote active parameters with the convention: "
        f"with both vocabulary matrices they are {one['active_with_vocabulary_billions']:.2f}."
    )
    return table, text


def _at_granularity(granularity: float) -> float:
    """EL of the baseline of Table 7's first group at another granularity."""
    point = {"activation_ratio": 3 / 65, "granularity": granularity, "compute": 2e18}
    return float(PUBLISHED.joint(**point))
