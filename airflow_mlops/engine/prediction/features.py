"""The features of rows that are to be predicted, as they were known at each row's time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_mlops.contracts import content_hash
from airflow_mlops.engine.data.distinct import count_repeated
from airflow_mlops.engine.data.exclusions import exclusions
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.shared import fetch_views
from airflow_mlops.engine.data.splits import BY_TIME
from airflow_mlops.engine.features.computing import provenance
from airflow_mlops.engine.features.computing.computed import check_computed, computed_for, stored_here
from airflow_mlops.engine.features.computing.files import Pins, check_unchanged, current_pins, pinned_paths
from airflow_mlops.engine.features.offline.reading import reading_files
from airflow_mlops.engine.features.project.schema import describe, feature_file
from airflow_mlops.engine.features.project.store import open_store
from airflow_mlops.engine.features.training.recipe import Recipe
from airflow_mlops.engine.features.training.rows import Asked, with_features
from airflow_mlops.engine.prediction.rows import Rows
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.ledger import Ledger


class PointInTime:
    """What a feature service says of rows, joined as for training: nothing that became known after a row's time.

    Of a sealed partition, the features of its time must have been computed, and from the partitions that are there now.
    Rows of one's own are joined with what there is.

    :param rows: What they are put beside.
    :param entity: Column that identifies a row.
    :param event_time: Column of the moments as of which features are read.
    :param inputs: What the model takes; those that are no features are columns of the rows.
    :param span: When the rows' partition begins and ends.
    :param ledger: Where exclusions are written down; None when there is no ledger.
    :raises ConfigError: when the service or a column is unknown.
    :raises DataError: when features were not computed, or from other data.
    """

    def __init__(
        self,
        location: Location,
        rows: Rows,
        *,
        service: str,
        entity: str,
        event_time: str,
        inputs: Iterable[str],
        span: tuple[datetime, datetime],
        store: PartitionStore,
        ledger: Ledger | None,
    ) -> None:
        self._home = location.home
        self._feast = open_store(location)
        self._repo = describe(self._feast)
        schema = self._repo.service(service)
        dataset = rows.partition.get("dataset", "entities")
        self._recipe = Recipe(
            source=dataset, entity=entity, event_time=event_time,
            keys=tuple(name for name in inputs if name not in schema.features),
            service=service, labels=dataset, label="", begin=span[0], label_cut=span[1], as_of=span[1], start=span[0],
            split_rule=BY_TIME, validation=timedelta(), test=timedelta(), excluded={},
        )  # fmt: skip
        self._asked = Asked(self._repo, schema, self._recipe)
        self._views = stored_here(self._feast, self._home, schema.views)
        fetch_views(self._home, self._views)
        self._check_columns(rows)
        self._pins: Pins = self._computed(store, ledger) if rows.partition else {}
        self.names = tuple(schema.features)

    @property
    def columns(self) -> Sequence[str]:
        """The columns of the rows that are needed: entity, time, join keys, request columns, inputs of the model."""
        return self._asked.columns

    @cached_property
    def identity(self) -> str:
        """The hash of what the features are."""
        definition = self._repo.definition_hash(self._recipe.service)
        if self._pins:
            return content_hash([definition, self._pins])
        files = [file for view in self._views for file in feature_file(self._home, view, "x").parent.glob("*.parquet")]
        seen = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files)]
        return content_hash([definition, seen])

    def beside(self, table: pa.Table) -> pa.Table:
        """Return rows with their features, in order of time.

        :raises DataError: when an entity does not identify a row, or the feature store loses one.
        """
        if repeated := count_repeated(table[self._recipe.entity]):
            raise DataError(
                f"{repeated} of {table.num_rows} rows have a {self._recipe.entity!r} that is null or not their own.",
                detail=self._recipe.source,
                hint="Features are put beside a row by what identifies it: name such a column in entity.",
            )
        paths = pinned_paths(self._home, self._pins)
        with reading_files({view: list(by_key.values()) for view, by_key in paths.items()}):
            return with_features(self._feast, self._recipe, self._asked, table)

    def check_unchanged(self) -> None:
        """Refuse what was joined with features that were computed again meanwhile.

        :raises TransientError: naming them.
        """
        check_unchanged(self._home, self._pins)

    def _computed(self, store: PartitionStore, ledger: Ledger | None) -> Pins:
        """Return the files of features that the rows of a partition can see, and be sure of them."""
        first = store.partitioning(self._recipe.source).interval(store.keys(self._recipe.source)[0])[0]
        recipe = replace(self._recipe, start=first)
        computed = computed_for(self._home, self._repo, recipe, self._views)
        names = [recipe.source, *provenance.pins(computed)]
        recipe = replace(recipe, excluded={name: exclusions(ledger, name) if ledger else [] for name in names})
        present = provenance.list_used(store, computed)
        check_computed(self._home, recipe, self._views, computed, provenance.revisions(present))
        return current_pins(self._home, computed)

    def _check_columns(self, rows: Rows) -> None:
        if missing := [name for name in self.columns if name not in rows.columns]:
            raise ConfigError(
                f"{rows.name[0].upper()}{rows.name[1:]} has no column {missing[0]!r}."
                f"{did_you_mean(missing[0], [*rows.columns, *self._asked.features])}",
                detail=f"missing: {', '.join(missing)}; there are: {', '.join(rows.columns)}; of features: "
                f"{', '.join(self._asked.features)}",
                hint=f"Feature service {self._recipe.service!r} is asked with entity, time, join keys and request "
                "columns, and what the model takes beside its features is a column too.",
            )
        self._asked.check(dict(rows.columns))
