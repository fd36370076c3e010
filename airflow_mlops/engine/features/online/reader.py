"""A feature service as a model is served it: read online, decoded, completed by its on-demand views.

What the service consists of is looked up once, when the reader is made. A read then asks the store for each entity
once, and builds nothing but the answer: no data frame, no response message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_mlops.engine.features.online.access import OnlineAccess
from airflow_mlops.engine.features.online.views import ServicePlan, Stored, StoredView, resolve
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.store import feast_errors, open_store
from airflow_mlops.engine.serving.requests import instance
from airflow_mlops.exceptions import ConfigError, did_you_mean

if TYPE_CHECKING:
    from feast import FeatureStore

    from airflow_mlops.contracts import Signature

TIMEOUT = 5.0  # seconds
_NOTHING: Stored = (None, None)


class OnlineReader:
    """Reads a feature service from the online store.

    The definitions are those of the moment at which the reader is made; make another one after an apply. Views that
    are being materialised are read as they are.

    :param location: Where the Feast project is.
    :param service: Feature service.
    :param timeout: Seconds that a read may take; see
        :class:`~airflow_mlops.engine.features.online.access.OnlineAccess`.
    :raises ConfigError: when the service is unknown, or cannot be read online.
    :raises TransientError: when the registry does not answer.
    """

    def __init__(self, location: Location, service: str, *, timeout: float = TIMEOUT) -> None:
        self._store = open_store(location)
        with feast_errors():
            self._plan = resolve(self._store, service)
        self._access = OnlineAccess(self._store, timeout)
        self._columns = self._plan.columns

    @property
    def store(self) -> FeatureStore:
        """The feature store, opened."""
        return self._store

    @property
    def plan(self) -> ServicePlan:
        """What the service consists of."""
        return self._plan

    @property
    def keys(self) -> dict[str, str]:
        """The join keys that the caller sends: column → Arrow type."""
        return {name: column.type for name, column in self._plan.keys.items()}

    @property
    def request(self) -> dict[str, str]:
        """What the caller sends for the on-demand views: column → Arrow type."""
        return {name: column.type for name, column in self._plan.request.items()}

    def read(self, entities: Sequence[Mapping[str, Any]], *, as_of: datetime | None = None) -> list[dict[str, Any]]:
        """Return the features of each entity, in order: feature → value, None for what is missing.

        :param entities: For each, a value for every column of :attr:`keys` and :attr:`request`, and nothing else.
            An entity whose key is None has no stored features.
        :param as_of: Values that are older than their view's time to live at this moment, or newer than it, count
            as missing, as they do in training. None: whatever the store has.
        :raises ConfigError: when it is no list, a column is unknown or missing, or ``as_of`` has no time zone.
        :raises DataError: when a value has another type than the registry says, or an on-demand view fails.
        :raises TransientError: when the online store does not answer in time.
        """
        check_moment(as_of)
        return self.read_at(entities, {} if as_of is None else {view.name: as_of for view in self._plan.stored})

    def read_at(self, entities: Sequence[Mapping[str, Any]], moments: Mapping[str, datetime]) -> list[dict[str, Any]]:
        """As :meth:`read`, with a moment for each stored view: those that were materialised up to different ones.

        :param moments: Stored view, by the name that the service gives it → moment, in UTC.
        """
        if isinstance(entities, Mapping):
            raise ConfigError("Entities are a list of mappings; this is one mapping.", hint="Send [entity].")
        if not entities:
            return []
        sent = self._sent(entities)
        found = self._stored(sent, len(entities), moments)
        answer = {name: found[view, name] for name, view in self._plan.outputs.items() if view is not None}
        for view in self._plan.on_demand:
            columns = sent | {name: found[source, name] for source, name in view.inputs}
            answer |= view.run(columns, len(entities))
        ordered = [answer[name] for name in self._plan.outputs]
        return [dict(zip(self._plan.outputs, row, strict=True)) for row in zip(*ordered, strict=True)]

    def own_inputs(self, signature: Signature) -> list[str]:
        """Return the inputs of a model that no feature gives: the caller sends them as they are."""
        return [name for name in signature.inputs if name not in self._plan.outputs and name not in self._columns]

    def inputs(
        self, rows: Sequence[Mapping[str, Any]], signature: Signature, *, as_of: datetime | None = None
    ) -> list[dict[str, Any]]:
        """Return the whole input of a model for each row, in order: what a model server is sent as an instance.

        Features are read; keys, request columns and other columns of the caller that are inputs themselves are handed
        on. A missing number is NaN, a missing text ``""``, as in training.

        :param rows: For each, the columns of :attr:`keys`, :attr:`request` and :meth:`own_inputs`, and nothing else.
        :param signature: The model's, from :meth:`~airflow_mlops.engine.serving.client.ServingClient.metadata`.
        :param as_of: As in :meth:`read`.
        :raises ConfigError: as :meth:`read`, or when an input has no value.
        :raises DataError: as :meth:`read`, or when a whole number is missing.
        :raises TransientError: as :meth:`read`.
        """
        own = set(self.own_inputs(signature))
        entities = [{name: value for name, value in row.items() if name not in own} for row in rows]
        found = self.read(entities, as_of=as_of)
        return [instance(signature, {**row, **features}) for row, features in zip(rows, found, strict=True)]

    def read_view(self, view: str, entities: Sequence[Mapping[str, Any]]) -> list[tuple[datetime | None, list[Any]]]:
        """Return what is stored of one view: event time and values of each entity; time None when there is nothing.

        :param view: A stored view of the service, by the name that the service gives it.
        :param entities: For each, a value for every join key of the view, by the view's own names.
        :raises TransientError: when the online store does not answer in time.
        """
        one = next(known for known in self._plan.stored if known.name == view)
        sent = [column.read([entity.get(key, "") for entity in entities]) for key, column in one.keys]
        [rows] = self._access.read([(one, [one.entity_key(key) for key in zip(*sent, strict=True)])])
        return [(stamp if values else None, one.decode((stamp, values), None)) for stamp, values in rows]

    def _sent(self, entities: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        wanted = self._columns
        for number, entity in enumerate(entities):
            if entity.keys() != wanted.keys():
                raise self._other_columns(number, entity.keys())
        return {name: column.read([entity[name] for entity in entities]) for name, column in wanted.items()}

    def _stored(
        self, sent: Mapping[str, list[Any]], rows: int, moments: Mapping[str, datetime]
    ) -> dict[tuple[str, str], list[Any]]:
        """Return (view, feature) → values, each entity of a view asked for once."""
        places = []
        for view in self._plan.stored:
            keys = _rows(view, sent, rows)
            places.append((view, keys, [key for key in dict.fromkeys(keys) if None not in key]))
        answers = self._access.read([(view, [view.entity_key(key) for key in known]) for view, _, known in places])
        found: dict[tuple[str, str], list[Any]] = {}
        for (view, keys, known), stored in zip(places, answers, strict=True):
            as_of = moments.get(view.name)
            values = {key: view.decode(row, as_of) for key, row in zip(known, stored, strict=True)}
            nothing = view.decode(_NOTHING, as_of)
            columns = zip(*(values.get(key, nothing) for key in keys), strict=True)
            found |= {(view.name, name): list(column) for name, column in zip(view.decoders, columns, strict=True)}
        return found

    def _other_columns(self, number: int, sent: Iterable[str]) -> ConfigError:
        columns = set(sent)
        unknown, missing = sorted(columns - set(self._columns)), sorted(set(self._columns) - columns)
        if unknown:
            guess = did_you_mean(unknown[0], missing or self._columns)
            headline = f"Entity {number} has a column {unknown[0]!r} that the service does not know.{guess}"
        else:
            headline = f"Entity {number} lacks the column {missing[0]!r}."
        return ConfigError(
            headline,
            detail=f"service {self._plan.name!r}; unknown: {', '.join(unknown) or 'none'}; "
            f"missing: {', '.join(missing) or 'none'}",
            hint=f"Send exactly: {', '.join(self._columns)}.",
        )


def check_moment(as_of: datetime | None) -> None:
    """Refuse a moment without a time zone.

    :raises ConfigError: when it has none.
    """
    if as_of is not None and as_of.tzinfo is None:
        raise ConfigError(
            f"as_of={as_of.isoformat()} has no time zone.", hint="Say which one: datetime(..., tzinfo=UTC)."
        )


def _rows(view: StoredView, sent: Mapping[str, list[Any]], rows: int) -> list[tuple[Any, ...]]:
    """Return the key of each entity; a view without entities has one row for all, under the key "" as Feast does."""
    return list(zip(*(sent.get(column.name, [""] * rows) for _, column in view.keys), strict=True))
