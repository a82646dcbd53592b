"""The report on a reader's table of runs as one HTML document.

It holds its style and its pictures; it loads nothing and can be mailed.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from moe_leverage.analysis.bootstrap import LEVEL
from moe_leverage.analysis.findings import Findings
from moe_leverage.analysis.identification import NOT_IDENTIFIED
from moe_leverage.analysis.points import FAMILY
from moe_leverage.page import theme
from moe_leverage.your_runs import drawing
from moe_leverage.your_runs.report import beside

LONG = 24  # characters of a cell that may take several lines
DEFINITION = (
    "EL, the efficiency leverage, is the dense compute over the mixture's compute at equal loss; "
    "A is the share of experts that a token activates, G is 2 d_model / d_expert, S the shared "
    "experts' share of the active ones, C the training compute in FLOPs."
)
STYLE = """
body { max-width: 54rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.55 system-ui, sans-serif;
  color: var(--fig-ink); background: var(--fig-surface); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--fig-grid); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child, td.words { text-align: left; }
td.long { white-space: normal; min-width: 12rem; }
figure { margin: 1rem 0; }
figure.picture { max-width: 38rem; }
figure.table figcaption { padding: .3rem 0; }
svg { width: 100%; height: auto; }
figcaption { color: var(--fig-muted); font-size: .9rem; }
ul { padding-left: 1.2rem; }
h1, p, li, td.long { overflow-wrap: anywhere; }
@media (max-width: 30rem) { table { font-size: .85rem; } th, td { padding: .2rem .35rem; } }
"""


def page(title: str, found: Findings, record: Mapping[str, Any]) -> str:
    """The report as one HTML document; `record` is the `summary` of the same findings."""
    counts = f"{record['num_runs']} runs: {record['num_dense']} dense, {record['num_moe']} MoE."
    light = "".join(f"{name}:{pair[0]};" for name, pair in theme.variables().items())
    dark = "".join(f"{name}:{pair[1]};" for name, pair in theme.variables().items())
    colours = f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        "".join(f"<p><strong>{html.escape(entry)}</strong></p>" for entry in record["answer"]),
        f"<p>{counts} {html.escape(DEFINITION)}</p>",
        _section("Warnings", _list(record["warnings"])),
        _section("Efficiency leverage", _leverage_part(found, record)),
        _section("The ways of reading, side by side", _estimators_part(record)),
        _section("Loss against compute", _curves_part(found)),
        _section("Fitted laws", _fits_part(record)),
        _section("Rivals of the joint law", _rivals_part(record)),
        _section("What could not be fitted, and why", _skipped_part(record)),
        _section("What to train next", _list(record["next"])),
        _section("How the file was read", _list(record["notes"])),
    ]
    head = f"<title>{html.escape(title)}</title><style>{colours}{STYLE}</style>"
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    body = "\n".join(part for part in parts if part)
    top = f'<!DOCTYPE html>\n<html lang="en"><head>{meta}{head}</head>'
    return f"{top}\n<body>\n{body}\n</body></html>\n"


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>\n{content}" if content else ""


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(i)}</li>' for i in items)}</ul>" if items else ""


def _table(caption: str, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in headers)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>\n" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
    said = html.escape(caption)  # beside what scrolls, so that it is read whole on a phone
    scrolls = f'<div class="wide" tabindex="0" role="region" aria-label="{said}">{table}</div>'
    return f'<figure class="table"><figcaption>{said}</figcaption>{scrolls}</figure>\n'


def _cell(value: Any) -> str:
    if isinstance(value, str):
        kind = "words long" if len(value) > LONG else "words"
        return f'<td class="{kind}">{html.escape(value)}</td>'
    if isinstance(value, list):
        ends = ("unbounded" if end is None else f"{end:.3g}" for end in value)
        return f"<td>{' to '.join(ends)}</td>"
    text = "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"<td>{text}</td>"


def _leverage_part(found: Findings, record: Mapping[str, Any]) -> str:
    if found.leverage is None:
        return f"<p>{html.escape(found.skipped['leverage'])}</p>"
    told = record["leverage"]
    more = beside(told)
    has_variants, has_bounds = (any(r[name] for r in told) for name in ("variant", "bound"))
    rows = [
        [*([r["variant"] or "plain"] if has_variants else []),
         r["activation_ratio"], r["granularity"], r["compute"], r["efficiency_leverage"],
         r["interval"], *([_bound(r["bound"])] if has_bounds else []),
         *(r[name] for name in more), r["published"], r["loss"]]
        for r in told
    ]  # fmt: skip
    headers = ["A", "G", "C, FLOPs", "EL", f"{LEVEL:.0%} interval",
               *(["bound"] if has_bounds else []), *more.values(), "published law",
               "loss, nats"]  # fmt: skip
    headers = ["variant", *headers] if has_variants else headers
    caption = "Leverage by the dense frontier; a bound where the frontier does not reach."
    return drawing.leverage_figure(found) + _table(caption, headers, rows)


def _estimators_part(record: Mapping[str, Any]) -> str:
    """EL by every estimator, and whether their intervals overlap."""
    rows = record["estimators"]
    axes = {"activation_ratio": "A", "granularity": "G", "compute": "C, FLOPs"}
    ways = [name for name in rows[0] if name not in (*FAMILY, "compute", "agree")] if rows else []
    if len(ways) < 2:
        return ""
    headers = [*axes.values(), *ways, "agree"]
    told = [
        [*(row[name] for name in (*axes, *ways)), "yes" if row["agree"] else "no"] for row in rows
    ]
    return _table("EL by each way of reading; they agree where all intervals meet.", headers, told)


def _bound(bound: Mapping[str, float] | None) -> str | None:
    if not bound:
        return None
    (name, value), *_ = bound.items()
    return f"{name.replace('_', ' ')} {value:.3g}"


def _curves_part(found: Findings) -> str:
    return "" if found.leverage is None else drawing.loss_figure(found)


def _fits_part(record: Mapping[str, Any]) -> str:
    rows = []
    for name, fitted in record["fits"].items():
        for key, value in fitted["coefficients"].items():
            verdict = fitted["identified"].get(key)
            value = None if verdict == NOT_IDENTIFIED else value
            printed = (fitted["published"] or {}).get(key)
            ends = fitted["interval"][key]
            both = (fitted["with_outliers"] or {}).get(key)
            rows.append([name, key, value, ends, verdict, fitted["equation"], printed, both])
    headers = ["fit", "coefficient", "value", f"{LEVEL:.0%} interval", "profile likelihood",
               "equation", "published", "with outliers"]  # fmt: skip
    if all(row[-1] is None for row in rows):
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    return _table("Coefficients of every law that the table identifies.", headers, rows)


def _rivals_part(record: Mapping[str, Any]) -> str:
    headers = ["law", "error of ln EL", "held out", "coefficients", "AIC", "BIC"]
    names = ("law", "error", "held_out_error", "num_coefficients", "aic", "bic")
    return "".join(
        _table(f"Test: {test}.", headers, [[score[name] for name in names] for score in scores])
        for test, scores in record["rivals"].items()
    )


def _skipped_part(record: Mapping[str, Any]) -> str:
    return _table(
        "Laws that need more than the table has.",
        ["law", "reason"],
        list(record["skipped"].items()),
    )
