"""Figures for whoever watches Airflow: sent where ``[metrics]`` says, StatsD, Datadog or OpenTelemetry."""

from __future__ import annotations

from airflow.sdk import conf


def gauge(name: str, value: float, **tags: str) -> None:
    """Send the present value of a figure from a task.

    Plain StatsD knows no tags: there their values, in the order given, become part of the name.

    :param name: Name, such as ``mlops.feature_age_seconds``; Airflow puts its prefix before it.
    :param value: The value.
    :param tags: What it is of.
    """
    from airflow.sdk.observability import stats

    plain = conf.getboolean("metrics", "statsd_on") and not conf.getboolean("metrics", "statsd_influxdb_enabled")
    if plain and not conf.getboolean("metrics", "statsd_datadog_enabled"):
        parts = [stats.normalize_name_for_stats(part.replace(".", "_"), log_warning=False) for part in tags.values()]
        stats.gauge(".".join([name, *parts]), value)
    else:
        stats.gauge(name, value, tags=dict(tags))
