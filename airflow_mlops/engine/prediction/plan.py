"""What is predicted from which columns, and which columns come out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_mlops.contracts import content_hash
from airflow_mlops.engine.data.fitting import TIME
from airflow_mlops.engine.prediction.outputs import column_type
from airflow_mlops.engine.prediction.rows import Rows, check_event_time
from airflow_mlops.engine.prediction.scorers import Scorer
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from airflow_mlops.engine.prediction.features import PointInTime

EVENT_TIME = "event_time"
"""Column of the time of rows that have none of their own: the moment at which their partition begins."""

STAMPS = {"model": pa.string(), "version": pa.string(), "predicted_at": TIME}
"""Columns by which every prediction can be traced."""

BATCH_ROWS = 8_192
SHARD_ROWS = 262_144


@dataclass(frozen=True)
class Plan:
    """What is predicted from which columns, and which columns come out.

    :param rows: The rows.
    :param scorer: Who predicts.
    :param entity: Column that identifies a row; it goes along.
    :param event_time: Column of their times, which goes along; empty: they have none.
    :param columns: Further columns that go along.
    :param features: What is put beside the rows; None: they have all inputs of the model.
    :param batch_rows: Rows that the model is asked for at once.
    :param shard_rows: Rows of a shard.
    """

    rows: Rows
    scorer: Scorer
    entity: str
    event_time: str = ""
    columns: Sequence[str] = ()
    features: PointInTime | None = None
    batch_rows: int = BATCH_ROWS
    shard_rows: int = SHARD_ROWS
    kept: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        times = [self.event_time] if self.event_time else []
        object.__setattr__(self, "kept", tuple(dict.fromkeys([self.entity, *times, *self.columns])))
        if min(self.batch_rows, self.shard_rows, self.scorer.in_flight) < 1:
            raise ConfigError(
                "Rows are predicted a positive number at a time.",
                detail=f"batch_rows={self.batch_rows}, shard_rows={self.shard_rows}, in_flight={self.scorer.in_flight}",
                hint="Leave them out, or give whole numbers from 1 on.",
            )
        self._check_rows()
        self._check_names()

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the model takes."""
        return tuple(self.scorer.signature.inputs)

    @property
    def read(self) -> list[str]:
        """The columns to read."""
        needed = self.inputs if self.features is None else self.features.columns
        return list(dict.fromkeys([*self.kept, *needed]))

    @property
    def schema(self) -> pa.Schema:
        """What comes out."""
        kept = [*self.rows.schema(self.kept), *([] if self.event_time else [pa.field(EVENT_TIME, TIME)])]
        outputs = [(name, column_type(name, spec)) for name, spec in self.scorer.signature.outputs.items()]
        return pa.schema([*kept, *outputs, *STAMPS.items()])

    @property
    def identity(self) -> str:
        """The hash of all that the predictions follow from."""
        features = None if self.features is None else self.features.identity
        made_of = [self.scorer.identity, self.rows.identity, features]
        return content_hash([*made_of, self.read, self.kept, self.event_time, self.batch_rows, self.shard_rows])

    def _check_rows(self) -> None:
        named = f"{self.rows.name[0].upper()}{self.rows.name[1:]}"
        if self.event_time:
            check_event_time(self.rows, self.event_time)
        for name in self.kept:
            if name not in self.rows.columns:
                raise ConfigError(
                    f"{named} has no column {name!r}.{did_you_mean(name, self.rows.columns)}",
                    detail=f"there are: {', '.join(self.rows.columns)}",
                    hint="entity and columns name columns of the rows that go along with their predictions.",
                )
        features = () if self.features is None else self.features.names
        if both := [name for name in self.kept if name in features]:
            raise ConfigError(
                f"{both[0]!r} is a column of the rows and a feature: which one goes along?",
                detail=f"both: {', '.join(both)}",
                hint="Leave it out of columns, or rename the column in a query of the entities.",
            )
        known = {*self.rows.columns, *features}
        if missing := [name for name in self.inputs if name not in known]:
            raise DataError(
                f"{named} lacks {len(missing)} of the model's inputs.{did_you_mean(missing[0], known)}",
                detail=f"missing: {', '.join(missing)}; there are: {', '.join(sorted(known))}",
                hint="Name the feature service that the model is trained on in service=, or bring the columns along.",
            )

    def _check_names(self) -> None:
        names = self.schema.names
        taken = Counter(name.casefold() for name in names)
        if twice := [name for name in names if taken[name.casefold()] > 1]:
            raise ConfigError(
                f"Two columns of the predictions would be called {twice[0]!r}.",
                detail=f"of the rows: {', '.join(self.kept)}; of the model: "
                f"{', '.join(self.scorer.signature.outputs)}; always: {', '.join(STAMPS)}",
                hint="Rename the column in a query of the entities, or the model's output.",
            )
