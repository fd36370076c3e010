"""What must hold of the flights and the weather before anything is computed from them.

Severities: ``critical`` blocks the day, ``warning`` and ``info`` are only reported. The bounds hold on every
day of 2013, with the storm of 9 February (69 % cancelled, 141 landings) and Thanksgiving as the extremes.
"""

from __future__ import annotations

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.row_conditions import Column

AIRPORTS = ["EWR", "JFK", "LGA"]
CARRIERS = ["9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV"]
WARNING = "warning"


def departures() -> list[Expectation]:
    """One UTC day of scheduled departures and how they went."""
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=500, max_value=1300),
        gxe.ExpectColumnValuesToNotBeNull(column="flight_id"),
        gxe.ExpectColumnValuesToBeUnique(column="flight_id"),
        gxe.ExpectColumnValuesToBeInSet(column="carrier", value_set=CARRIERS),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="origin", value_set=AIRPORTS),
        gxe.ExpectColumnValuesToBeBetween(column="distance", min_value=1, max_value=5500),
        gxe.ExpectColumnValuesToBeBetween(column="sched_minutes", min_value=20, max_value=900),
        gxe.ExpectColumnValuesToBeBetween(column="dep_delay", min_value=-60, max_value=1500),
        gxe.ExpectColumnValuesToBeInSet(
            column="cancelled", value_set=[True], row_condition=Column("dep_delay").is_null()
        ),
        gxe.ExpectColumnMeanToBeBetween(column="cancelled", max_value=0.8),
        gxe.ExpectColumnMeanToBeBetween(column="cancelled", max_value=0.25, severity=WARNING),
        gxe.ExpectColumnValuesToNotBeNull(column="known_at"),
        gxe.ExpectColumnPairValuesToBeEqual(
            column_A="known_at", column_B="dep_utc", ignore_row_if="either_value_is_missing"
        ),
    ]


def arrivals() -> list[Expectation]:
    """One UTC day of landings. Only what landed is here: an unknown delay stays unknown, never "on time"."""
    delay = Column("arr_delay")
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=100, max_value=1300),
        gxe.ExpectTableRowCountToBeBetween(min_value=450, severity=WARNING),
        gxe.ExpectColumnValuesToNotBeNull(column="flight_id"),
        gxe.ExpectColumnValuesToBeUnique(column="flight_id"),
        gxe.ExpectColumnValuesToBeInSet(column="carrier", value_set=CARRIERS),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="origin", value_set=AIRPORTS),
        gxe.ExpectColumnValuesToBeBetween(column="arr_delay", min_value=-120, max_value=1500),
        gxe.ExpectColumnValuesToNotBeNull(column="arr_delay", mostly=0.95),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="landed_at", column_B="sched_dep_utc"),
        gxe.ExpectColumnMeanToBeBetween(column="late_15", min_value=0.005, max_value=0.85),
        gxe.ExpectColumnValuesToBeInSet(column="late_15", value_set=[True], row_condition=delay > 15),
        gxe.ExpectColumnValuesToBeInSet(column="late_15", value_set=[False], row_condition=delay <= 15),
        gxe.ExpectColumnValuesToBeNull(column="late_15", row_condition=delay.is_null()),
    ]


def weather() -> list[Expectation]:
    """One UTC day of observations, at most one an airport and hour; single hours are missing now and then."""
    off = f"abs(100 * {_vapour('dewp')} / {_vapour('temp')} - humid)"
    return [
        # The fewest are 52: the year's first day starts at 06:00.
        gxe.ExpectTableRowCountToBeBetween(min_value=48, max_value=72),
        gxe.ExpectTableRowCountToBeBetween(min_value=66, severity=WARNING),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="origin", value_set=AIRPORTS),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["origin", "observed_at"]),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="known_at", column_B="observed_at"),
        gxe.ExpectColumnValuesToNotBeNull(column="temp", mostly=0.95),
        gxe.ExpectColumnValuesToNotBeNull(column="visib", mostly=0.95),
        gxe.ExpectColumnValuesToNotBeNull(column="wind_speed", mostly=0.95),
        gxe.ExpectColumnValuesToNotBeNull(column="pressure", mostly=0.3),
        gxe.ExpectColumnValuesToBeBetween(column="temp", min_value=-20, max_value=115),
        gxe.ExpectColumnValuesToBeBetween(column="humid", min_value=0, max_value=100),
        # Temperature and dew point in degrees Fahrenheit give the humidity: a day's median is off by 0.04 percent at
        # most; in degrees Celsius by 1.1 at least.
        gxe.UnexpectedRowsExpectation(
            unexpected_rows_query=f"SELECT median({off}) AS off FROM {{batch}} HAVING median({off}) > 0.5",
            description="humidity follows from temperature and dew point",
        ),
        # A sensor breaks now and then, as on 12 February (1,048 mph); the features leave such a value out.
        gxe.ExpectColumnValuesToBeBetween(column="wind_speed", min_value=0, max_value=150, mostly=0.95),
        gxe.ExpectColumnValuesToBeBetween(column="wind_speed", min_value=0, max_value=150, severity=WARNING),
        gxe.ExpectColumnValuesToBeBetween(column="precip", min_value=0, max_value=5),
        gxe.ExpectColumnValuesToBeBetween(column="pressure", min_value=950, max_value=1060),
        gxe.ExpectColumnValuesToBeBetween(column="visib", min_value=0, max_value=10),
    ]


def snapshot() -> list[Expectation]:
    """A training set: labelled flights with the features known just before they left."""
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1000),
        gxe.ExpectColumnValuesToNotBeNull(column="flight_id"),
        gxe.ExpectColumnValuesToBeUnique(column="flight_id"),
        gxe.ExpectColumnValuesToNotBeNull(column="late_15"),
        gxe.ExpectColumnMeanToBeBetween(column="late_15", min_value=0.05, max_value=0.6),
        gxe.ExpectColumnValuesToBeInSet(column="carrier", value_set=CARRIERS),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="origin", value_set=AIRPORTS),
        gxe.ExpectColumnValuesToBeBetween(column="sched_hour", min_value=0, max_value=23),
        gxe.ExpectColumnValuesToNotBeNull(column="distance_miles"),
        gxe.ExpectColumnValuesToNotBeNull(column="sched_minutes"),
        # A join that finds nothing gives nulls, not an error; only the first hours of all have no history.
        gxe.ExpectColumnValuesToNotBeNull(column="origin_dep_delay_mean_1h", mostly=0.7),
        gxe.ExpectColumnValuesToNotBeNull(column="carrier_arr_delay_mean_24h", mostly=0.7),
        gxe.ExpectColumnValuesToNotBeNull(column="route_arr_delay_mean_7d", mostly=0.7),
        gxe.ExpectColumnValuesToNotBeNull(column="dest_arr_delay_mean_7d", mostly=0.7),
        gxe.ExpectColumnValuesToNotBeNull(column="weather_temp", mostly=0.7),
        # Two of three aircraft landed within two days; of the others nothing is known.
        gxe.ExpectColumnValuesToNotBeNull(column="aircraft_idle_minutes", mostly=0.4),
        gxe.ExpectColumnValuesToBeBetween(column="aircraft_idle_minutes", min_value=0, max_value=2880),
        gxe.ExpectColumnValuesToBeBetween(column="origin_dep_late_rate_1h", min_value=0, max_value=1),
        gxe.ExpectColumnValuesToBeBetween(column="carrier_arr_late_rate_24h", min_value=0, max_value=1),
    ]


def _vapour(column: str) -> str:
    """Return the SQL for the vapour pressure (Magnus) at a temperature, but for a constant."""
    celsius = f"(({column} - 32) / 1.8)"
    return f"exp(17.625 * {celsius} / (243.04 + {celsius}))"
