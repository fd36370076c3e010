"""Feast's Redis online store, on Redis or Valkey, written in bulk by a script that guards each row where it is written.

A cluster spreads keys over machines, which one script cannot reach: it is written through Feast's interface.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from feast.infra.online_stores.redis import RedisOnlineStore, RedisType, _mmh3, _versioned_fv_name
from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from feast import FeatureStore, FeatureView, RepoConfig

    from airflow_mlops.engine.features.materialization.write import EncodedRows

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEYS = 200
"""Rows that one call of the script writes: about a millisecond in which the server does nothing else."""
_CALLS = 25
"""Calls that are sent before the answers are read."""

# ARGV: field of the event time, number of features, seconds to live or 0, names of the features; then for each key
# seconds and nanoseconds of the event, the event time as it is stored, and the values. The stored time is a protobuf
# Timestamp: field 1 the seconds, field 2 the nanoseconds, both varints.
_SCRIPT = b"""
local function parsed(text)
  local at, found = 1, {0, 0}
  while at <= #text do
    local field, value, scale = math.floor(text:byte(at) / 8), 0, 1
    at = at + 1
    while true do
      local byte = text:byte(at)
      at = at + 1
      value = value + (byte % 128) * scale
      scale = scale * 128
      if byte < 128 then break end
    end
    if value >= 9223372036854775808 then value = value - 18446744073709551616 end
    found[field] = value
  end
  return found[1], found[2]
end
local moment, features, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local at, written = 4 + features, 0
for _, key in ipairs(KEYS) do
  local stored, newer = redis.call('HGET', key, moment), false
  if stored then
    local seconds, nanos = parsed(stored)
    local own, fraction = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
    newer = seconds > own or (seconds == own and nanos > fraction)
  end
  if not newer then
    local fields = {moment, ARGV[at + 2]}
    for n = 1, features do
      fields[2 * n + 1] = ARGV[3 + n]
      fields[2 * n + 2] = ARGV[at + 2 + n]
    end
    redis.call('HSET', key, unpack(fields))
    if ttl > 0 then redis.call('EXPIRE', key, ttl) end
    written = written + 1
  end
  at = at + 3 + features
end
return written
"""


def knows(store: FeatureStore) -> RedisOnlineStore | None:
    """Return the online store if it is Feast's for Redis, on one server or behind sentinels."""
    online = getattr(store._get_provider(), "online_store", None)
    own = isinstance(online, RedisOnlineStore) and (
        type(online).online_write_batch is RedisOnlineStore.online_write_batch
    )
    return online if own and store.config.online_store.redis_type != RedisType.redis_cluster else None


def writer(online: RedisOnlineStore, config: RepoConfig, view: FeatureView) -> Callable[[EncodedRows], None]:
    """Return what writes rows: a row whose event is older than the one that is there changes nothing."""
    from redis.exceptions import NoScriptError

    client = online._get_client(config.online_store)
    name, project = _versioned_fv_name(view, config), config.project.encode()
    features = [field.name for field in view.features]
    head = [f"_ts:{name}".encode(), str(len(features)).encode(), str(config.online_store.key_ttl_seconds or 0).encode()]
    head += [_mmh3(f"{name}:{feature}") for feature in features]

    def write(rows: EncodedRows) -> None:
        sha = client.script_load(_SCRIPT)
        calls = _calls(rows, features, head, project)
        while batch := [call for _, call in zip(range(_CALLS), calls, strict=False)]:
            try:
                _send(client, sha, batch)
            except NoScriptError:  # the server was started again meanwhile, or its scripts were flushed
                sha = client.script_load(_SCRIPT)
                _send(client, sha, batch)

    return write


def _send(client: Any, sha: str, calls: list[tuple[int, list[bytes]]]) -> None:
    with client.pipeline(transaction=False) as pipe:
        for keys, arguments in calls:
            pipe.evalsha(sha, keys, *arguments)
        pipe.execute()


def _calls(
    rows: EncodedRows, features: list[str], head: list[bytes], project: bytes
) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the number of keys and the arguments of each call."""
    keys = [key + project for key in rows.keys]
    values = [rows.features[feature].by_row() for feature in features]
    columns = [*_times(rows.events), *values]
    for start in range(0, len(keys), _KEYS):
        some = keys[start : start + _KEYS]
        cells = zip(*(column[start : start + _KEYS] for column in columns), strict=True)
        yield len(some), [*some, *head, *chain.from_iterable(cells)]


def _times(microseconds: np.ndarray[Any, Any]) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Return seconds, nanoseconds, and the time as Feast stores it."""
    distinct, codes = np.unique(microseconds, return_inverse=True)
    found = np.empty((3, len(distinct)), object)
    for n, value in enumerate(distinct.tolist()):
        stamp = Timestamp()
        stamp.FromDatetime(_EPOCH + timedelta(microseconds=value))
        found[:, n] = str(stamp.seconds).encode(), str(stamp.nanos).encode(), stamp.SerializeToString()
    seconds, nanos, stored = (row[codes].tolist() for row in found)
    return seconds, nanos, stored
