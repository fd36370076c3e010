"""What a training set is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from airflow_mlops.contracts import Exclusion, SplitRule
from airflow_mlops.engine.data.complete import Span


@dataclass(frozen=True)
class Recipe:
    """What a training set is made of, and which rows.

    Prediction times are in ``[begin, label_cut)``, everything is as known at ``as_of``. Exclusions are by dataset.
    """

    source: str
    entity: str
    event_time: str
    keys: tuple[str, ...]
    service: str
    labels: str
    label: str
    begin: datetime
    label_cut: datetime
    as_of: datetime
    start: datetime
    split_rule: SplitRule
    validation: timedelta
    test: timedelta
    excluded: Mapping[str, list[Exclusion]]
    slices: tuple[str, ...] = ()
    known_at: str = ""
    """Column of when a label became known; empty: the event time of the labels' dataset."""
    problem: str = ""
    """Problem type; empty: by the type of the label."""
    heads: Mapping[str, str] = field(default_factory=dict)
    """Further labels: column → problem type, empty likewise."""
    weight: str = ""
    group: str = ""
    without: tuple[Exclusion, ...] = ()
    """Windows of the source whose rows only this training set leaves out; features computed from them stay."""
    without_slices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Column of the source → values, as text, of the rows that only this training set leaves out."""

    @property
    def span(self) -> Span:
        """When prediction times are."""
        return self.begin, self.label_cut

    @property
    def label_span(self) -> Span:
        """Where labels are: by when they became known, or, as a column of the source itself, by prediction time."""
        return self.span if self.labels == self.source else (self.begin, self.as_of)

    @property
    def window(self) -> str:
        """When prediction times are, in words."""
        return f"{self.begin:%Y-%m-%d %H:%M} to {self.label_cut:%Y-%m-%d %H:%M} UTC"

    @property
    def left_out(self) -> list[Exclusion]:
        """Windows of prediction times to leave out: those of the source, and those of the labels.

        The latter begin a maturing period earlier. Of the rows whose labels may lie in a gap, only those with late
        labels would be left, and these are not like the others.
        """
        matures_after = self.as_of - self.label_cut
        of_labels = self.excluded.get(self.labels, []) if self.labels != self.source else []
        moved = [one.model_copy(update={"start": one.start - matures_after}) for one in of_labels]
        return [*self.excluded.get(self.source, []), *self.without, *moved]

    def exclusions(self, since: datetime) -> tuple[Exclusion, ...]:
        """Return those exclusions that can have left out a row.

        :param since: When the history that was read begins.
        """
        first = min(since, self.begin)
        found = {**self.excluded, self.source: [*self.excluded.get(self.source, []), *self.without]}
        return tuple(
            one
            for name, windows in sorted(found.items())
            for one in windows
            if one.end > first and one.start < (self.as_of if name == self.labels else self.label_cut)
        )
