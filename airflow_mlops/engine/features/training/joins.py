"""How many rows of a training set found their label: against the model's own history, in all and by slice.

Rows that have not matured are not in the window, so they do not count as missing. Each seven days of the window are
looked at too, counted back from its end, so that a fault of one week does not hide in five months.

Measured on the flights of 2013, of which cancelled ones never have a label: the week of the snow of 8 February keeps
85 % of the usual share, the worst carrier with hundreds of flights in a week 74 %.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.contracts import ExpectationOutcome, ValidationResult, content_hash
from airflow_mlops.engine.data.lateness import SNAPSHOT
from airflow_mlops.engine.data.robust import Share, outcome, rate_shift, rounded
from airflow_mlops.engine.features.training.recipe import Recipe
from airflow_mlops.engine.ledger import Ledger

MAX_JOIN_DROP = 0.4
"""Share of the usual joins that may be missing. Half of the labels lost are refused, no week of 2013 is."""

ENOUGH_ROWS = 30
"""Rows below which a slice, or seven days of it, is not looked at."""

_WEEK = 7 * 86_400_000_000
_EARLIER = 3
_SUITE = "label_joins"
_ALL = ""

Counts = dict[str, dict[str, list[int]]]
"""Slice column → value → rows, and rows with a label; all rows are the value ``""`` of the column ``""``."""


class Joins:
    """Counts rows, and those that found their label, by slice and by seven days."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._weeks: dict[tuple[str, str], dict[int, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))

    def add(self, rows: pa.Table, joined: pa.Array) -> None:
        """Count some rows of the window.

        :param rows: With the event time and the slice columns.
        :param joined: True where a row found its label.
        """
        cut = int(self.recipe.label_cut.timestamp() * 1_000_000)
        times = rows[self.recipe.event_time].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
        weeks = pa.array((cut - 1 - times) // _WEEK)
        for column in (_ALL, *self.recipe.slices):
            values = pa.array([_ALL] * rows.num_rows, pa.string()) if column == _ALL else rows[column].cast(pa.string())
            table = pa.table({"value": values, "week": weeks, "joined": pc.cast(joined, pa.int64())})
            counted = table.group_by(["value", "week"]).aggregate([("joined", "count"), ("joined", "sum")])
            for one in counted.to_pylist():
                if one["value"] is not None:
                    found = self._weeks[column, one["value"]][one["week"]]
                    found[0] += one["joined_count"]
                    found[1] += one["joined_sum"]

    @property
    def whole(self) -> Counts:
        """The counts of the whole window, of slices with enough rows."""
        counts: Counts = {}
        for (column, value), weeks in self._weeks.items():
            rows, joined = (sum(week[n] for week in weeks.values()) for n in (0, 1))
            if column == _ALL or rows >= ENOUGH_ROWS:
                counts.setdefault(column, {})[value] = [rows, joined]
        return counts

    def check(
        self, earlier: Sequence[Counts], *, min_joined: float | None = None, max_join_drop: float = MAX_JOIN_DROP
    ) -> list[ExpectationOutcome]:
        """Hold the window, and each seven days of it, against what is usual.

        :param earlier: The counts of earlier snapshots of the model. Without any, the weeks of the window are held
            against each other.
        :param min_joined: Smallest share of all rows that find their label, whatever is usual.
        :param max_join_drop: Share of the usual joins that may be missing.
        """
        whole = self.whole
        rows, joined = whole.get(_ALL, {}).get(_ALL, [0, 0])
        outcomes = []
        if min_joined is not None:
            share = joined / rows if rows else 0.0
            outcomes.append(
                outcome(
                    "labels_joined",
                    column=self.recipe.label,
                    level="block" if share < min_joined else None,
                    observed={"rows": rows, "share": rounded(share)},
                    bound={"min": min_joined},
                    count=rows - joined,
                    note=f"{joined} of {rows} rows found their label",
                )
            )
        for column, values in whole.items():
            lost = [one for value in sorted(values) for one in self._lost(column, value, earlier, max_join_drop)]
            told = {"slices": len(values)} if column else {"share": rounded(joined / rows)}
            bound = {"max_drop": max_join_drop, "snapshots": len(earlier)}
            note = f"each slice of {column!r}" if column else f"{joined} of {rows} rows found their label"
            outcomes += lost or [
                outcome(
                    "labels_joined_as_usual",
                    column=self.recipe.label,
                    observed={"rows": rows, **told},
                    bound=bound,
                    note=note,
                )
            ]
        nothing = outcome("labels_joined_as_usual", at_worst="info", note="there are no rows in the window")
        return outcomes or [nothing]

    def _lost(
        self, column: str, value: str, earlier: Sequence[Counts], max_drop: float
    ) -> Iterator[ExpectationOutcome]:
        """Yield the window, or else the worst seven days of it, if too few rows of a slice found their label."""
        before = [Share(joined, rows) for one in earlier for rows, joined in [one.get(column, {}).get(value, [0, 0])]]
        weeks = {week: Share(joined, rows) for week, (rows, joined) in self._weeks[column, value].items()}
        spans = {"the window": Share(sum(s.hits for s in weeks.values()), sum(s.rows for s in weeks.values()))}
        spans |= {self._named(week): share for week, share in sorted(weeks.items())}
        known = [share for share in before if share.rows]
        found = []
        for name, share in spans.items():
            shift = rate_shift(share, known or list(weeks.values()))
            if shift is None or share.rows < ENOUGH_ROWS:
                continue
            # Not by the scatter of the weeks: among three, the bad one makes it wide. Below zero is significant.
            if shift.distance < 0 and shift.rate < (1 - max_drop) * shift.usual:
                where = f"slice {value!r} of {column!r}" if column else "all rows"
                found.append(
                    outcome(
                        "labels_joined_as_usual",
                        column=self.recipe.label,
                        level="block",
                        observed={"rows": int(share.rows), "share": rounded(shift.rate)},
                        bound={"usual": rounded(shift.usual), "min": rounded((1 - max_drop) * shift.usual)},
                        count=int(share.rows - share.hits),
                        note=f"{where}, {name}: {share.hits:.0f} of {share.rows:.0f} rows found their label, "
                        f"usual {shift.usual:.1%}",
                    )
                )
        yield from sorted(found, key=lambda one: one.observed["share"])[:1]

    def _named(self, week: int) -> str:
        end = np.datetime64(self.recipe.label_cut.replace(tzinfo=None), "D") - 7 * week
        return f"{end - 7} to {end - 1}"


def earlier_joins(ledger: Ledger, model: str, recipe: Recipe) -> list[Counts]:
    """Return the counts of those of the model's snapshots on older data in which most rows found their label.

    Not of the last ones: of a loss that goes on slowly, these know no better. Only those that passed were written down.
    """
    cut = recipe.label_cut.isoformat()
    found: list[Counts] = []
    for fact in ledger.facts(SNAPSHOT, model, limit=None):
        counts = fact.payload.get("label_joins")
        if counts and fact.payload["label_cut"].replace("Z", "+00:00") < cut:
            found.append(counts)
    return sorted(found, key=_share_joined, reverse=True)[:_EARLIER]


def _share_joined(counts: Counts) -> float:
    rows, joined = counts.get(_ALL, {}).get(_ALL, [0, 0])
    return joined / rows if rows else 0.0


def as_result(
    outcomes: Sequence[ExpectationOutcome], recipe: Recipe, model: str, rows: int, bounds: Mapping[str, Any]
) -> ValidationResult:
    """Return the outcomes as a validation result."""
    return ValidationResult(
        suite=_SUITE,
        suite_hash=content_hash(dict(bounds)),
        batch=f"{model}: labels of {recipe.labels!r} up to {recipe.label_cut:%Y-%m-%d %H:%M} UTC",
        batch_hash=content_hash([model, recipe.begin.isoformat(), recipe.as_of.isoformat(), recipe.labels]),
        rows=rows,
        outcomes=tuple(outcomes),
        engine="profile",
    )
