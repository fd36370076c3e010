"""What the flight_delay model is predicted from: entities, feature views and the feature service.

The rows are computed by ``flight_features.py`` and stored as ``$MLOPS_HOME/features/<view>/<day>.parquet``.
A row's ``event_timestamp`` is the moment it describes, its ``created_timestamp`` the moment it could be known.

A change of what a feature means is a new service (``flight_delay_v2``) with new features beside these: models that
were trained on ``flight_delay_v1`` go on reading it.
"""

import os
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.data_format import ParquetFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String, UnixTimestamp

from airflow_mlops import FeatureRules
from flight_features import flight_request as flight_request_features

RULES = FeatureRules(owner="block", tags="block", doubles="block")
HOME = os.environ["MLOPS_HOME"]
OWNER = {"owner": "flight-ops"}
TAGS = {**OWNER, "allowed_use": "flight_delay", "status": "active", "valid_from": "2013-01-01"}


def entity(name: str, join_key: str, description: str) -> Entity:
    """What features are known of, found by one text column."""
    return Entity(name=name, join_keys=[join_key], value_type=ValueType.STRING, description=description, tags=OWNER)


def computed(view: str) -> FileSource:
    """The Parquet files of a view, one a day."""
    return FileSource(
        name=f"{view}_rows",
        path=f"{HOME}/features/{view}/*.parquet",
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


def tags(max_age: str | None = None, **columns: str) -> dict[str, str]:
    """Return a view's tags: who owns it, who may use it, since when, and the columns whose change would break it.

    :param max_age: How old the newest value that can be read online may be when a day is over.
    :param columns: Dataset → columns.
    """
    read = " ".join(f"{dataset}.{column}" for dataset, names in columns.items() for column in names.split())
    return {**TAGS, "columns": read} | ({"max_age": max_age} if max_age else {})


def numbers(**descriptions: str) -> list[Field]:
    """Return a field for each name; a missing number is unknown, never zero."""
    return [Field(name=name, dtype=Float64, description=text) for name, text in descriptions.items()]


def delays(prefix: str, flights: str, *windows: str) -> list[Field]:
    """Return the mean delay and the late rate of some flights over each window."""
    return numbers(
        **{f"{prefix}_delay_mean_{w}": f"Mean delay of {flights} in the last {w}, minutes." for w in windows},
        **{f"{prefix}_late_rate_{w}": f"Share of {flights} in the last {w} over 15 minutes late." for w in windows},
    )


carrier = entity("carrier", "carrier", "The airline, by its two-letter code.")
origin = entity("origin", "origin", "The airport that a flight leaves from.")
destination = entity("destination", "dest", "The airport that a flight goes to.")
route = entity("route", "route", "Origin and destination, such as JFK-LAX.")
aircraft = entity("aircraft", "tailnum", "The aircraft, by its tail number; unknown for some flights.")

origin_traffic = FeatureView(
    name="origin_traffic",
    description="How the queue at the airport has moved; every hour.",
    entities=[origin],
    ttl=timedelta(days=1),
    schema=[
        *numbers(origin_departures_1h="Flights that left in the last hour."),
        *delays("origin_dep", "flights that left", "1h", "24h", "7d"),
        *numbers(
            origin_cancelled_rate_24h="Share of the flights of the last 24 hours that were cancelled.",
            origin_cancelled_rate_7d="Share of the flights of the last 7 days that were cancelled.",
        ),
    ],
    source=computed("origin_traffic"),
    tags=tags("3h", departures="origin known_at dep_delay cancelled"),
)

carrier_delays = FeatureView(
    name="carrier_delays",
    description="How late the carrier's flights have landed, and how many it cancelled; every hour.",
    entities=[carrier],
    ttl=timedelta(days=1),
    schema=[
        *numbers(carrier_landings_1h="Flights that landed in the last hour."),
        *delays("carrier_arr", "landings", "1h", "24h", "7d"),
        *numbers(carrier_cancelled_rate_24h="Share of the flights of the last 24 hours that were cancelled."),
    ],
    source=computed("carrier_delays"),
    tags=tags("3h", arrivals="carrier landed_at arr_delay", departures="carrier known_at cancelled"),
)

route_delays = FeatureView(
    name="route_delays",
    description="How late flights from this airport to that one have landed; every six hours.",
    entities=[route],
    ttl=timedelta(days=2),
    schema=[
        *numbers(route_landings_7d="Flights that landed in the last 7 days."),
        *delays("route_arr", "landings", "24h", "7d"),
    ],
    source=computed("route_delays"),
    tags=tags("8h", arrivals="route landed_at arr_delay"),
)

destination_delays = FeatureView(
    name="destination_delays",
    description="How late flights to this airport have landed; every six hours.",
    entities=[destination],
    ttl=timedelta(days=2),
    schema=[
        *numbers(dest_landings_24h="Flights that landed in the last 24 hours."),
        *delays("dest_arr", "landings", "24h", "7d"),
    ],
    source=computed("destination_delays"),
    tags=tags("8h", arrivals="dest landed_at arr_delay"),
)

aircraft_last_leg = FeatureView(
    name="aircraft_last_leg",
    description="The last known landing of the aircraft; a row a landing.",
    entities=[aircraft],
    ttl=timedelta(days=2),
    schema=[
        Field(name="aircraft_arr_delay", dtype=Float64, description="How late it was, minutes; unknown if diverted."),
        Field(name="aircraft_landed_in", dtype=String, description="Where it went."),
        Field(name="aircraft_landed_at", dtype=UnixTimestamp, description="When; input of flight_request only."),
    ],
    source=computed("aircraft_last_leg"),
    tags=tags("6h", arrivals="tailnum landed_at arr_delay dest"),
)

origin_weather = FeatureView(
    name="origin_weather",
    description="The weather at the airport: of the hour it was observed in, known when that hour was over.",
    entities=[origin],
    ttl=timedelta(hours=6),
    schema=numbers(
        weather_temp="Degrees Fahrenheit.",
        weather_wind_speed="Miles per hour; unknown where the sensor was broken.",
        weather_precip="Inches.",
        weather_visibility="Miles.",
        weather_pressure="Millibars at sea level.",
    ),
    source=computed("origin_weather"),
    tags=tags("6h", weather="origin observed_at known_at temp wind_speed precip visib pressure"),
)

flight_request = on_demand_feature_view(
    name="flight_request",
    description="The flight that is asked about: its timetable, and how long its aircraft has been on the ground.",
    sources=[
        RequestSource(
            name="flight",
            schema=[
                Field(name="sched_dep_utc", dtype=UnixTimestamp),
                Field(name="sched_arr_utc", dtype=UnixTimestamp),
                Field(name="distance", dtype=Float64),
            ],
        ),
        aircraft_last_leg[["aircraft_landed_at"]],
    ],
    mode="python",
    # Feast compares these fields with those that the function returns, so they cannot have descriptions:
    # miles; minutes from gate to gate; New York time, 0 is Monday; minutes since it landed, unknown beyond two days.
    schema=[
        Field(name="distance_miles", dtype=Float64),
        Field(name="sched_minutes", dtype=Float64),
        Field(name="sched_hour", dtype=Int64),
        Field(name="weekday", dtype=Int64),
        Field(name="month", dtype=Int64),
        Field(name="aircraft_idle_minutes", dtype=Float64),
    ],
    tags=tags(departures="sched_dep_utc sched_arr_utc distance"),
)(flight_request_features)

flight_delay_v1 = FeatureService(
    name="flight_delay_v1",
    description="Inputs of the model flight_delay.",
    features=[
        flight_request,
        origin_traffic,
        carrier_delays,
        route_delays,
        destination_delays,
        aircraft_last_leg[["aircraft_arr_delay", "aircraft_landed_in"]],
        origin_weather,
    ],
    tags={**TAGS, "version": "1"},
)
