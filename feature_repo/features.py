"""What the flight_delay model is predicted from: entities, feature views and the feature service.

The rows are computed by ``dags/flights/features.py`` and stored as ``$MLOPS_HOME/features/<view>/<day>.parquet``.
A row's ``event_timestamp`` is the moment it describes, its ``created_timestamp`` the moment it could be known.
"""

import os
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Float64, Int64

HOME = os.environ["MLOPS_HOME"]
TAGS = {"owner": "flight-ops", "model": "flight_delay"}


def computed(view: str) -> FileSource:
    """The Parquet files of a view, one a day."""
    return FileSource(
        name=f"{view}_rows",
        path=f"{HOME}/features/{view}/*.parquet",
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


def computed_from(dataset: str, columns: str) -> dict[str, str]:
    """Return a view's tags: who owns it, and the columns whose change would break it."""
    return {**TAGS, "columns": " ".join(f"{dataset}.{column}" for column in columns.split())}


flight = Entity(name="flight", join_keys=["flight_id"], value_type=ValueType.STRING, tags=TAGS)
carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING, tags=TAGS)
origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING, tags=TAGS)
route = Entity(name="route", join_keys=["route"], value_type=ValueType.STRING, tags=TAGS)

flight_schedule = FeatureView(
    name="flight_schedule",
    description="What the timetable says about a flight; known when its UTC day starts.",
    entities=[flight],
    ttl=timedelta(days=1),
    schema=[
        Field(name="distance", dtype=Float64, description="Miles."),
        Field(name="sched_minutes", dtype=Float64, description="Scheduled minutes from gate to gate."),
        Field(name="sched_hour", dtype=Int64, description="Hour of the scheduled departure, New York time."),
        Field(name="weekday", dtype=Int64, description="0 is Monday, New York time."),
        Field(name="month", dtype=Int64, description="1 to 12, New York time."),
    ],
    source=computed("flight_schedule"),
    tags=computed_from("departures", "flight_id sched_dep_utc distance sched_minutes sched_hour weekday month"),
)

origin_traffic = FeatureView(
    name="origin_traffic",
    description="How the queue at the airport has moved; every hour.",
    entities=[origin],
    ttl=timedelta(days=1),
    schema=[
        Field(name="departures_2h", dtype=Float64, description="Flights that left in the last 2 hours."),
        Field(name="dep_delay_mean_2h", dtype=Float64, description="Their mean delay, minutes."),
        Field(name="dep_late_rate_2h", dtype=Float64, description="Share of them more than 15 minutes late."),
        Field(name="cancelled_rate_24h", dtype=Float64, description="Share of the last 24 hours' flights."),
    ],
    source=computed("origin_traffic"),
    tags=computed_from("departures", "origin known_at dep_delay cancelled"),
)

carrier_delays = FeatureView(
    name="carrier_delays",
    description="How late the carrier's flights have landed; every hour.",
    entities=[carrier],
    ttl=timedelta(days=1),
    schema=[
        Field(name="arr_delay_mean_24h", dtype=Float64, description="Minutes."),
        Field(name="arr_late_rate_24h", dtype=Float64, description="Share more than 15 minutes late."),
        Field(name="landings_24h", dtype=Float64, description="Flights that landed in the last 24 hours."),
    ],
    source=computed("carrier_delays"),
    tags=computed_from("arrivals", "carrier landed_at arr_delay"),
)

route_delays = FeatureView(
    name="route_delays",
    description="How late flights from this airport to that one have landed; every six hours.",
    entities=[route],
    ttl=timedelta(days=2),
    schema=[
        Field(name="arr_delay_mean_7d", dtype=Float64, description="Minutes."),
        Field(name="arr_late_rate_7d", dtype=Float64, description="Share more than 15 minutes late."),
        Field(name="landings_7d", dtype=Float64, description="Flights that landed in the last 7 days."),
    ],
    source=computed("route_delays"),
    tags=computed_from("arrivals", "route landed_at arr_delay"),
)

flight_delay_v1 = FeatureService(
    name="flight_delay_v1",
    description="Inputs of the model flight_delay.",
    features=[flight_schedule, origin_traffic, carrier_delays, route_delays],
    tags=TAGS,
)
