"""The online store itself: all views of a service in one go, within a bounded time, with errors in words."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_mlops.engine.features.online.views import Stored, StoredView
from airflow_mlops.engine.features.project.errors import in_words
from airflow_mlops.engine.features.project.settings import SETTINGS
from airflow_mlops.exceptions import MlopsError, TransientError

if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey

_T = TypeVar("_T")
Ask = tuple[StoredView, Sequence["EntityKey"]]


class OnlineAccess:
    """Reads views through the store's own interface; Redis and Valkey in one round trip.

    :param timeout: Seconds that a read may take, done in a thread that is left behind when the time is up. SQLite is
        read directly, and waits a few seconds for a lock; Redis and Valkey too, with the timeout of their sockets.
    """

    def __init__(self, store: FeatureStore, timeout: float) -> None:
        self._config = store.config
        self._provider = store._get_provider()
        self._timeout = timeout
        self._kind = type(self._provider.online_store).__name__
        if self._kind == "RedisOnlineStore":
            self._read = self._pipelined
            self._bound_redis()
        else:
            self._read = self._one_by_one if self._kind == "SqliteOnlineStore" else self._in_time

    def read(self, asked: Sequence[Ask]) -> list[list[Stored]]:
        """Return, for each view, what the store has for each of its entity keys, in order.

        :raises TransientError: when the store does not answer, or not in time.
        :raises MlopsError: for a store that refuses, is damaged or was not applied to, as :func:`feast_errors` does.
        """
        with self._in_words():
            return self._read(asked)

    def _one_by_one(self, asked: Sequence[Ask]) -> list[list[Stored]]:
        read = self._provider.online_read
        return [read(self._config, view.table, list(keys), list(view.decoders)) if keys else [] for view, keys in asked]

    def _in_time(self, asked: Sequence[Ask]) -> list[list[Stored]]:
        return _within(self._timeout, lambda: self._one_by_one(asked))

    def _pipelined(self, asked: Sequence[Ask]) -> list[list[Stored]]:
        """As ``RedisOnlineStore.get_online_features`` does it, less the building of its response."""
        from feast.infra.online_stores.redis import _versioned_fv_name

        store, config = self._provider.online_store, self._config
        commands: list[tuple[bytes, list[str | bytes]]] = []
        for view, keys in asked:
            _, fields = store._generate_hset_keys_for_features(
                view.table, list(view.decoders), fv_name_override=_versioned_fv_name(view.table, config)
            )
            commands += [(key, fields) for key in store._generate_redis_keys_for_entities(config, keys)]
        values = iter(store._read_hash_fields(config, commands) if commands else ())
        return [[_redis_row(list(view.decoders), next(values)) for _ in keys] for view, keys in asked]

    def _bound_redis(self) -> None:
        """Try once more at most, when the link was closed: redis-py would go on for most of a minute."""
        settings = self._config.online_store
        if settings.client.value != "redis":
            return
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError as Unconnected
        from redis.retry import Retry

        client = self._provider.online_store._get_client(settings)
        client.set_retry(Retry(NoBackoff(), 1, supported_errors=(Unconnected,)))

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except MlopsError:
            raise
        except Exception as error:
            told = _explained(error, self._kind.removesuffix("OnlineStore"), self._timeout)
            if told is None:
                raise
            raise told from error


def _redis_row(features: list[str], values: Sequence[bytes | None]) -> Stored:
    """Return a row of a hash: one field a feature, then the event time."""
    from feast.protos.feast.types.Value_pb2 import Value
    from google.protobuf.timestamp_pb2 import Timestamp

    *found, stamp = values
    if stamp is None:
        return None, None
    moment = Timestamp.FromString(stamp).ToDatetime(tzinfo=UTC)
    return moment, {name: Value.FromString(value) for name, value in zip(features, found, strict=True) if value}


def _within(seconds: float, call: Callable[[], _T]) -> _T:
    """Return what ``call`` returns, or raise TimeoutError; then the thread that still waits is left to itself."""
    answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((True, call()))
        except BaseException as error:
            answers.put((False, error))

    threading.Thread(target=run, name="online-store-read", daemon=True).start()
    try:
        fine, answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if fine:
        found: _T = answer
        return found
    raise answer


def _explained(error: Exception, store: str, timeout: float) -> Exception | None:
    """Return the error in words; None when it is not the store's."""
    names = " ".join(base.__name__ for base in type(error).__mro__)
    if "Timeout" in names:
        return TransientError(
            f"The online store ({store}) did not answer in time.",
            detail=f"{type(error).__name__}: {error}".strip(": ") if str(error) else f"waited {timeout:g} s",
            hint="See whether it is overloaded. Nothing is lost.",
        )
    told = in_words(error)
    if told is None and isinstance(error, OSError):
        return TransientError(
            f"The online store ({store}) does not answer.",
            detail=f"{type(error).__name__}: {error}",
            hint=f"Check that it is up, and `online_store` in {SETTINGS} or in the connection.",
        )
    return told
