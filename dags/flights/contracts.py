"""What the model relies on in the feeds, by version. Raise the version with every change that a reader must know of."""

from __future__ import annotations

from airflow_mlops.engine.data.checks import Column, SchemaContract

TIME = "timestamp[us, tz=UTC]"
CODE = Column("string", nullable=False, casing="upper")


def departures() -> SchemaContract:
    """What was scheduled, and how the departure went."""
    return SchemaContract(
        version="1",
        columns={
            "flight_id": Column("string", nullable=False, meaning="carrier, flight, origin and scheduled departure"),
            "carrier": CODE,
            "flight": Column("int64", nullable=False),
            "tailnum": Column("string", casing="upper", meaning="unknown for some cancelled flights"),
            "origin": CODE,
            "dest": CODE,
            "route": CODE,
            "distance": Column("double", nullable=False, unit="miles"),
            "sched_dep_utc": Column(TIME, nullable=False),
            "sched_arr_utc": Column(TIME, nullable=False),
            "sched_minutes": Column("double", nullable=False, unit="minutes"),
            "sched_hour": Column("int64", nullable=False, meaning="New York time"),
            "weekday": Column("int64", nullable=False, meaning="0 is Monday, New York time"),
            "month": Column("int64", nullable=False),
            "cancelled": Column("bool", nullable=False),
            "dep_utc": Column(TIME, meaning="null when it never left"),
            "dep_delay": Column("double", unit="minutes", meaning="null when it never left"),
            "known_at": Column(TIME, nullable=False),
        },
    )


def arrivals() -> SchemaContract:
    """When flights landed, and how late."""
    return SchemaContract(
        version="2",
        columns={
            "flight_id": Column("string", nullable=False),
            "carrier": CODE,
            "tailnum": Column("string", casing="upper", meaning="the aircraft; unknown for some"),
            "origin": CODE,
            "dest": CODE,
            "route": CODE,
            "sched_dep_utc": Column(TIME, nullable=False),
            "landed_at": Column(TIME, nullable=False),
            "arr_delay": Column("double", unit="minutes", meaning="null for flights that were diverted"),
            "late_15": Column("bool", meaning="null where arr_delay is"),
        },
    )


def weather() -> SchemaContract:
    """What was observed at the airports, hour by hour."""
    return SchemaContract(
        version="1",
        columns={
            "origin": CODE,
            "observed_at": Column(TIME, nullable=False, meaning="the hour that is described"),
            "known_at": Column(TIME, nullable=False, meaning="when that hour is over"),
            "temp": Column("double", unit="degrees Fahrenheit"),
            "dewp": Column("double", unit="degrees Fahrenheit"),
            "humid": Column("double", unit="percent"),
            "wind_dir": Column("double", unit="degrees", meaning="null when the wind changes"),
            "wind_speed": Column("double", unit="miles per hour"),
            "wind_gust": Column("double", unit="miles per hour", meaning="null when there are no gusts"),
            "precip": Column("double", unit="inches"),
            "pressure": Column("double", unit="millibars", meaning="at sea level; often not reported"),
            "visib": Column("double", unit="miles"),
        },
    )
