"""What a training set is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from airflow_mlops.contracts import Exclusion, SplitRule

_ONE_DAY = timedelta(days=1)


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
    start: date
    split_rule: SplitRule
    validation: timedelta
    test: timedelta
    excluded: Mapping[str, list[Exclusion]]
    slices: tuple[str, ...] = ()

    @property
    def days(self) -> tuple[date, date]:
        """First and last day with prediction times."""
        return self.begin.date(), (self.label_cut - timedelta(microseconds=1)).date()

    @property
    def label_days(self) -> tuple[date, date]:
        """First and last day on which labels became known."""
        return self.begin.date(), (self.as_of - _ONE_DAY).date()

    @property
    def left_out(self) -> list[Exclusion]:
        """Windows of prediction times to leave out: those of the source, and those of the labels.

        The latter begin a maturing period earlier. Of the rows whose labels may lie in a gap, only those with late
        labels would be left, and these are not like the others.
        """
        matures_after = self.as_of - self.label_cut
        of_labels = self.excluded.get(self.labels, [])
        moved = [one.model_copy(update={"start": one.start - matures_after}) for one in of_labels]
        return [*self.excluded.get(self.source, []), *moved]

    def exclusions(self, since: date) -> tuple[Exclusion, ...]:
        """Return those exclusions that can have left out a row.

        :param since: First day of any history that was read.
        """
        first = min(datetime.combine(since, time(), UTC), self.begin)
        return tuple(
            one
            for name, found in sorted(self.excluded.items())
            for one in found
            if one.end > first and one.start < (self.as_of if name == self.labels else self.label_cut)
        )
