"""Which version a rollback goes back to: by its number, by what served then, or by the data that it knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow_mlops.engine.features.governance.consumers import data_cut
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.deployments import deployment, kept_versions, lasting, moves
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.moments import is_day, parse_day_or_moment


def version_to_go_back_to(  # noqa: PLR0917
    ledger: Ledger, server: str, model: str, number: int | None, served_on: str, trained_before: str = ""
) -> int | None:
    """Return the version that a rollback is asked to go back to; None for the last one that served well.

    :param served_on: A moment with its zone, or a day: what served at its end.
    :param trained_before: A moment with its zone, or a day: the newest kept version that knows no data from then on.
    :raises ConfigError: when one is neither, or several ways are given.
    :raises DataError: when there is no such version.
    """
    asked = {"version": number, "served_on": served_on, "trained_before": trained_before}
    given = {name: value for name, value in asked.items() if value}
    if len(given) > 1:
        raise ConfigError(
            "A rollback goes back to one version, which is named in one way.",
            detail=", ".join(f"{name}={value}" for name, value in given.items()),
            hint="A number, the day on which it served, or the day from which on the data is bad: leave out the rest.",
        )
    if trained_before:
        return known_before(ledger, server, model, parse_day_or_moment(trained_before, "trained_before"))
    if not served_on:
        return number
    moment = parse_day_or_moment(served_on, "served_on")
    return served_at(ledger, server, model, moment + timedelta(days=1) if is_day(served_on) else moment)


def served_at(ledger: Ledger, server: str, model: str, moment: datetime) -> int:
    """Return the version that answered callers at a moment.

    :raises DataError: when none did.
    """
    for move in lasting(moves(ledger, server, model)):
        if move.at <= moment and move.state.stable is not None:
            return move.state.stable
    raise DataError(
        f"No version of {model!r} served on {server!r} at {moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC.",
        detail="the ledger has no deployment from before",
        hint=f"`airflow-mlops deployments {model}` lists what served when.",
    )


def known_before(ledger: Ledger, server: str, model: str, moment: datetime) -> int:
    """Return the newest kept version that served and knows no label from a moment on.

    :raises DataError: when every version that is kept knows of it, or of none it is known.
    """
    state = deployment(ledger, server, model)[0]
    served = {move.state.stable for move in lasting(moves(ledger, server, model))}
    cuts = {
        version: cut
        for version in sorted(({*kept_versions(ledger, model)} & served) - {*state.rolled_back})
        if (cut := data_cut(ledger, model, version)) is not None
    }
    clean = {version: cut for version, cut in cuts.items() if cut <= moment}
    if not clean:
        known = ", ".join(f"version {version} up to {cut:%Y-%m-%d %H:%M} UTC" for version, cut in cuts.items())
        raise DataError(
            f"No kept version of {model!r} was trained on data before {moment:%Y-%m-%d %H:%M} UTC only.",
            detail=known or "of no kept version it is known what data it was trained on",
            hint=f"Deploy(keep=...) says how many are kept. Exclude the bad window with {model}.exclude, and trigger "
            f"{model}.train.",
        )
    return max(clean, key=lambda version: (clean[version], version))
