"""The report of a validation: one HTML page that needs nothing else, neither scripts nor the network."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from airflow_mlops.contracts import ColumnProfile, ExpectationOutcome, Profile, ValidationResult
from airflow_mlops.engine.data.charts import categories, distribution, instant, number
from airflow_mlops.engine.data.profiles import EXACT_BELOW, distinct, near_unique, null_rate, quantiles

_LISTED = 12
"""Most values of a bound that are written out."""

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1d2430; --quiet: #667085; --edge: #e3e7ee; --soft: #f6f7f9;
  --bar: #7aa5d8; --line: #c2410c; --pass: #15803d; --warn: #b45309; --block: #b91c1c; --info: #475569; }
@media (prefers-color-scheme: dark) { :root { --page: #14181f; --text: #e4e8ef; --quiet: #98a2b3; --edge: #2c3442;
  --soft: #1b212b; --bar: #4a78b0; --line: #fb923c; --pass: #4ade80; --warn: #fbbf24; --block: #f87171;
  --info: #94a3b8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px; max-width: 1200px; background: var(--page); color: var(--text);
  font: 14px/1.45 system-ui, sans-serif; }
h1 { margin: 0 0 4px; font-size: 22px; } h2 { margin: 28px 0 8px; font-size: 16px; }
.verdict { display: inline-block; margin-right: 10px; padding: 1px 12px; border: 2px solid; border-radius: 6px; }
.pass { color: var(--pass); } .warn { color: var(--warn); } .block, .unknown { color: var(--block); }
.info { color: var(--info); } .quiet { color: var(--quiet); }
dl { display: flex; flex-wrap: wrap; gap: 8px 28px; margin: 14px 0 0; } dt { color: var(--quiet); font-size: 12px; }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { width: 100%; border-collapse: collapse; }
th { padding: 6px 10px 6px 0; text-align: left; font-size: 12px; font-weight: 600; color: var(--quiet); }
td { padding: 8px 10px 8px 0; border-top: 1px solid var(--edge); vertical-align: top; }
td { font-variant-numeric: tabular-nums; }
.status { font-weight: 700; white-space: nowrap; } code { font: 12px/1.4 ui-monospace, monospace; }
a { color: inherit; text-decoration-color: var(--quiet); } tr:target { background: var(--soft); }
summary { cursor: pointer; font-weight: 600; margin: 20px 0 8px; } svg { display: block; max-width: 100%; }
svg text { fill: var(--quiet); font: 11px system-ui, sans-serif; } svg .end { text-anchor: end; }
svg .bar { fill: var(--bar); } svg .line { fill: none; stroke: var(--line); stroke-width: 1.5; }
"""

_STATUS = {"block": "BLOCK", "warn": "WARN", "info": "INFO"}


def render(result: ValidationResult, profile: Profile | None = None, reference: Profile | None = None) -> str:
    """Return the page: the verdict, the expectations worst first, and what the columns look like.

    :param profile: Of the batch; without it no distribution is drawn.
    :param reference: What the batch is compared with, usually the merged profiles of earlier valid days.
    """
    anchors = {name: f"c{index}" for index, name in enumerate(profile.columns)} if profile is not None else {}
    title = f"{_verdict(result)[0]} {result.batch}"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            _head(result),
            _expectations(result, anchors),
            _columns(profile, reference, result, anchors) if profile is not None else "",
            "</body></html>",
        ]
    )


# --- the verdict ------------------------------------------------------------------------------------------


def _verdict(result: ValidationResult) -> tuple[str, str]:
    if result.blocked:
        return "BLOCKED", "block"
    return ("WARN", "warn") if any(outcome.severity == "warn" for outcome in result.failed) else ("PASS", "pass")


def _head(result: ValidationResult) -> str:
    word, style = _verdict(result)
    unknown = sum(outcome.error is not None for outcome in result.outcomes)
    failed = len(result.failed) - unknown
    said = f"{len(result.outcomes)} checked, {failed} failed"
    if unknown:
        said += f", {unknown} UNKNOWN (could not be checked, which blocks like a failure)"
    if not result.outcomes:
        said = "Nothing was checked, and what was not checked does not pass."
    facts = {
        "Expectations": said,
        "Rows": f"{result.rows:,}",
        "Suite": f"{result.suite}{f', version {result.suite_version}' if result.suite_version else ''}",
        "Suite hash": result.suite_hash,
        "Batch hash": result.batch_hash,
        "Computed by": result.engine,
    }
    listed = "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in facts.items() if text)
    return f'<h1><span class="verdict {style}">{word}</span>{escape(result.batch)}</h1><dl>{listed}</dl>'


# --- the expectations -------------------------------------------------------------------------------------


def _expectations(result: ValidationResult, anchors: Mapping[str, str]) -> str:
    # An unknown one blocks whatever its severity, so it stands with the worst.
    failed = sorted(result.failed, key=lambda outcome: outcome.error is None and outcome.severity != "block")
    passed = [outcome for outcome in result.outcomes if outcome.success]
    page = ""
    if failed:
        page += f"<h2>Failed: {len(failed)}</h2>{_table(failed, result.rows, anchors)}"
    if passed:
        inside = _table(passed, result.rows, anchors)
        page += f"<details{'' if failed else ' open'}><summary>Passed: {len(passed)}</summary>{inside}</details>"
    return page


def _table(outcomes: Sequence[ExpectationOutcome], rows: int, anchors: Mapping[str, str]) -> str:
    body = "".join(_outcome(outcome, rows, anchors) for outcome in outcomes)
    return _listing(["", "Severity", "Expectation", "Column", "Observed", "Bound", "Failing", "Note"], body)


def _listing(names: Sequence[str], body: str) -> str:
    head = "".join(f"<th>{name}</th>" for name in names)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _outcome(outcome: ExpectationOutcome, rows: int, anchors: Mapping[str, str]) -> str:
    status, style = ("PASS", "pass") if outcome.success else (_STATUS[outcome.severity], outcome.severity)
    if outcome.error is not None:
        status, style = "UNKNOWN", "unknown"
    words = outcome.expectation.removeprefix("expect_").replace("_", " ")
    cells = [
        f'<td class="status {style}">{status}</td>',
        f"<td>{outcome.severity}</td>",
        f'<td title="{escape(outcome.expectation)}">{escape(words)}</td>',
        f"<td>{_column_link(outcome.column, anchors)}</td>",
        f"<td>{escape(_value(outcome.observed))}</td>",
        f"<td>{escape(_value(outcome.bound))}</td>",
        # Distinct values are no share of the rows.
        f"<td>{_failing(outcome.unexpected_count, 0 if '_distinct_values_' in outcome.expectation else rows)}</td>",
        f"<td>{_note(outcome)}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _column_link(column: str | None, anchors: Mapping[str, str]) -> str:
    if column is None:
        return ""
    name = f"<code>{escape(column)}</code>"
    return f'<a href="#{anchors[column]}">{name}</a>' if column in anchors else name


def _value(value: Any) -> str:
    """Write an observed figure or a bound; of a long list only how it begins."""
    if value is None or value == {}:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')}: {_value(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        more = f", … {len(value) - _LISTED} more" if len(value) > _LISTED else ""
        return ", ".join(map(_value, value[:_LISTED])) + more
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return number(value)


def _failing(count: int | None, rows: int) -> str:
    if count is None:
        return ""
    return f"{count:,} ({count / rows:.2%})" if rows and count else f"{count:,}"


def _note(outcome: ExpectationOutcome) -> str:
    parts = [escape(outcome.note)] if outcome.note else []
    if outcome.error is not None:
        parts.append(f"It could not be checked, so nobody knows whether the data is good: {escape(outcome.error)}")
    if outcome.row_ids:
        parts.append(f"Rows: {escape(_value(outcome.row_ids))}")
    return "<br>".join(parts)


# --- the columns ------------------------------------------------------------------------------------------


def _columns(profile: Profile, reference: Profile | None, result: ValidationResult, anchors: Mapping[str, str]) -> str:
    others = reference.columns if reference is not None else {}
    failing = {outcome.column for outcome in result.failed}
    body = "".join(
        _column(
            name,
            anchors[name],
            column,
            others.get(name),
            failing=name in failing,
            known=_vocabulary(name, profile, reference, result),
        )
        for name, column in profile.columns.items()
    )
    heading = f"<h2>Columns: {len(profile.columns)}</h2>"
    if reference is not None:
        days = len(reference.revisions)
        heading += (
            f'<p class="quiet">Bars: this batch. Orange: {days} reference partition{"s" if days > 1 else ""}, '
            f"{reference.rows:,} rows; grey: their share of nulls. Bars and lines are shares of rows.</p>"
        )
    return heading + _listing(["Column", "Type", "Null", "Distinct", "Min, median, max", "Distribution"], body)


def _vocabulary(name: str, profile: Profile, reference: Profile | None, result: ValidationResult) -> set[str]:
    """Return the values of a column that may be written: those that the suite, or the slices of earlier days, name."""
    bounds = [outcome.bound for outcome in result.outcomes if name in (outcome.column or "").split(", ")]
    known = set(_texts(bounds))
    if reference is not None and name in profile.slices:
        known |= reference.slices.get(name, {}).keys()
    return known


def _texts(bound: Any) -> Iterator[str]:
    if isinstance(bound, Mapping):
        bound = list(bound.values())
    if isinstance(bound, list | tuple):
        for part in bound:
            yield from _texts(part)
    else:
        yield str(bound)


def _column(
    name: str,
    anchor: str,
    column: ColumnProfile,
    reference: ColumnProfile | None,
    *,
    failing: bool,
    known: Collection[str],
) -> str:
    mark = ' <span class="status block" title="an expectation on it failed">●</span>' if failing else ""
    named = near_unique(column) or (reference is not None and near_unique(reference))
    drawn = (
        '<span class="quiet">nearly unique: its values are not shown</span>'
        if named
        else _drawn(column, reference, known)
    )
    before = f'<br><span class="quiet">{null_rate(reference):.2%}</span>' if reference is not None else ""
    cells = [
        f"<td><code>{escape(name)}</code>{mark}</td>",
        f"<td>{escape(column.type)}</td>",
        f"<td>{null_rate(column):.2%}{before}</td>",
        f"<td>{_distinct(column)}</td>",
        f"<td>{'' if named else _figures(column)}</td>",
        f"<td>{drawn}</td>",
    ]
    return f'<tr id="{anchor}">{"".join(cells)}</tr>'


def _drawn(column: ColumnProfile, reference: ColumnProfile | None, known: Collection[str]) -> str:
    if column.kind == "boolean":
        return categories(column, reference, column.top.keys() | (reference.top.keys() if reference else set()))
    if column.kind == "category":
        return categories(column, reference, known)
    return distribution(column, reference)


def _distinct(column: ColumnProfile) -> str:
    if column.kind == "other":
        return ""
    estimate = distinct(column)
    return f"{estimate:,.0f}" if estimate < EXACT_BELOW else f"≈ {number(float(f'{estimate:.2g}'))}"


def _figures(column: ColumnProfile) -> str:
    if column.kind not in ("number", "time") or column.min is None:
        return ""
    text = instant if column.kind == "time" else number
    lines = [text(column.min), text(quantiles(column, [0.5])[0]), text(column.max)]
    if column.infinities:
        lines.append(f"{column.infinities:,} infinite")
    return "<br>".join(map(escape, lines))
