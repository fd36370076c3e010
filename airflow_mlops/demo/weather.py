"""The weather at New York's airports in 2013: what was observed in each hour, as a feed that lands day by day.

The package's file counts local hours, so on 3 November each airport has one of them twice; in UTC (``time_hour``)
every airport and hour is there at most once, and that is what the feed counts. 165 of 26,280 hours are missing:
single ones, a few in the nights of 26 October and 3 November, the first six of the year and its last day.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd

LAST_DAY = date(2013, 12, 30)
"""The package has no weather of the year's last day."""

KNOWN_AFTER = timedelta(hours=1)
"""An observation is filed under the hour in which it was made: when that hour is over, the world knows it."""

_TIME = pa.timestamp("us", tz="UTC")
_NUMBERS = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
SCHEMA = pa.schema(
    {"origin": pa.string(), "observed_at": _TIME, "known_at": _TIME} | dict.fromkeys(_NUMBERS, pa.float64())
)


def read_weather(file: Path) -> pd.DataFrame:
    """Return all observations of the year.

    :param file: The package's ``weather.csv``.
    """
    import pandas as pd

    rows = pd.read_csv(file)
    observed = pd.to_datetime(rows["time_hour"], utc=True)
    return rows.assign(observed_at=observed, known_at=observed + KNOWN_AFTER)
