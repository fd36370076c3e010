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


def origin_traffic() -> list[Expectation]:
    """A day of features: each airport, each hour. Only the year's first hours have nothing to compute from."""
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=36, max_value=72),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="origin", value_set=AIRPORTS),
        gxe.ExpectColumnValuesToBeBetween(column="origin_departures_1h", min_value=0, max_value=100),
        gxe.ExpectColumnValuesToNotBeNull(column="origin_dep_delay_mean_7d", mostly=0.9),
        *_delays("origin_dep_delay_mean_1h", "origin_dep_delay_mean_24h", "origin_dep_delay_mean_7d"),
        *_shares("origin_dep_late_rate_1h", "origin_dep_late_rate_24h", "origin_dep_late_rate_7d"),
        *_shares("origin_cancelled_rate_24h", "origin_cancelled_rate_7d"),
    ]


def carrier_delays() -> list[Expectation]:
    """A day of features: each carrier, each hour."""
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=150, max_value=384),
        gxe.ExpectColumnValuesToBeInSet(column="carrier", value_set=CARRIERS),
        gxe.ExpectColumnValuesToNotBeNull(column="carrier_arr_delay_mean_7d", mostly=0.6),
        *_delays("carrier_arr_delay_mean_1h", "carrier_arr_delay_mean_24h", "carrier_arr_delay_mean_7d"),
        *_shares("carrier_arr_late_rate_24h", "carrier_arr_late_rate_7d", "carrier_cancelled_rate_24h"),
    ]


def route_delays() -> list[Expectation]:
    """A day of features: each route, every six hours."""
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=90, max_value=950),
        gxe.ExpectColumnValuesToMatchRegex(column="route", regex="^[A-Z]{3}-[A-Z]{3}$"),
        *_delays("route_arr_delay_mean_24h", "route_arr_delay_mean_7d"),
        *_shares("route_arr_late_rate_24h", "route_arr_late_rate_7d"),
    ]


def destination_delays() -> list[Expectation]:
    """A day of features: each destination, every six hours."""
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=45, max_value=430),
        *_delays("dest_arr_delay_mean_24h", "dest_arr_delay_mean_7d"),
        *_shares("dest_arr_late_rate_24h", "dest_arr_late_rate_7d"),
    ]


def aircraft_last_leg() -> list[Expectation]:
    """A day of features: a row a landing."""
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=100, max_value=1200),
        gxe.ExpectColumnValuesToNotBeNull(column="aircraft_landed_in"),
        *_delays("aircraft_arr_delay"),
        gxe.ExpectColumnPairValuesToBeEqual(column_A="aircraft_landed_at", column_B="event_timestamp"),
    ]


def origin_weather() -> list[Expectation]:
    """A day of features: each airport, each hour observed."""
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=48, max_value=72),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="origin", value_set=AIRPORTS),
        gxe.ExpectColumnValuesToBeBetween(column="weather_temp", min_value=-20, max_value=115),
        gxe.ExpectColumnValuesToBeBetween(column="weather_wind_speed", min_value=0, max_value=150),
        gxe.ExpectColumnValuesToBeBetween(column="weather_visibility", min_value=0, max_value=10),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="created_timestamp", column_B="event_timestamp"),
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


def _delays(*columns: str) -> list[Expectation]:
    return [gxe.ExpectColumnValuesToBeBetween(column=name, min_value=-120, max_value=1500) for name in columns]


def _shares(*columns: str) -> list[Expectation]:
    return [gxe.ExpectColumnValuesToBeBetween(column=name, min_value=0, max_value=1) for name in columns]


def _vapour(column: str) -> str:
    """Return the SQL for the vapour pressure (Magnus) at a temperature, but for a constant."""
    celsius = f"(({column} - 32) / 1.8)"
    return f"exp(17.625 * {celsius} / (243.04 + {celsius}))"
