# ruff: noqa: T201  a command talks on standard output
"""What people on call do to what serves: look, roll back, withdraw, pin, unpin."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.commands.place import open_home, open_ledger, place_options, use_laptop_connections, who
from airflow_mlops.exceptions import ConfigError, DataError, MlopsError
from airflow_mlops.moments import parse_day_or_moment

if TYPE_CHECKING:
    from airflow_mlops.contracts import Deployment
    from airflow_mlops.engine.ledger import Ledger

_GATES = 'Name a JSON file with a list such as [{"metric": "auc", "min": 0.65}].'


def add_deployments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands about what serves."""
    place = place_options()
    of_model = argparse.ArgumentParser(add_help=False)
    of_model.add_argument("model", metavar="MODEL")
    of_model.add_argument(
        "--server",
        default="tf_serving_default",
        metavar="CONNECTION",
        help="Airflow connection of the model server (default: %(default)s)",
    )
    said = argparse.ArgumentParser(add_help=False)
    said.add_argument("--reason", required=True, help="why, in words; kept in the ledger with your name")
    until = argparse.ArgumentParser(add_help=False)
    until.add_argument("--until", metavar="ISO", help="when the pin runs out (default: when somebody unpins)")

    rollback = commands.add_parser(
        "rollback", parents=[place, of_model, said, until], help="let an earlier version answer again, and pin it"
    )
    target = rollback.add_mutually_exclusive_group()
    target.add_argument(
        "--to", type=int, metavar="VERSION", help="any that is kept (default: the last that served well)"
    )
    target.add_argument("--served-on", default="", metavar="ISO", help="what served on a day, or at a moment")
    target.add_argument(
        "--trained-before", default="", metavar="ISO", help="the newest kept one that knows no data from a day on"
    )
    rollback.set_defaults(run=_rollback)

    withdraw = commands.add_parser(
        "withdraw",
        parents=[place, of_model, said],
        help="let no version answer, where none is good: callers are refused at once, and use what they have for that",
    )
    withdraw.set_defaults(run=_withdraw)

    pin = commands.add_parser(
        "pin", parents=[place, of_model, said, until], help="keep the version that serves, whatever passes its gates"
    )
    pin.set_defaults(run=_pin)

    unpin = commands.add_parser(
        "unpin", parents=[place, of_model, said], help="let the next version that passes its gates be deployed again"
    )
    unpin.set_defaults(run=_unpin)

    through = commands.add_parser(
        "roll-through",
        parents=[place, of_model, said],
        help="go forward and not back: lift the pin, deploy the next version that passes, however often it was rolled "
        "back",
    )
    through.set_defaults(run=_roll_through)

    allow = commands.add_parser(
        "allow-code",
        parents=[place, said],
        help="answer for a version of code that nobody committed: until when it may be deployed",
    )
    allow.add_argument("model", metavar="MODEL")
    allow.add_argument("version", type=int, metavar="VERSION")
    allow.add_argument("--until", required=True, metavar="ISO", help="until when")
    allow.set_defaults(run=_allow_code)

    listing = commands.add_parser(
        "deployments", parents=[place, of_model], help="what serves, what can be gone back to, what served when"
    )
    listing.set_defaults(run=_deployments)

    rejudge = commands.add_parser(
        "rejudge", parents=[place], help="judge a version again, as it was judged; exits with 1 when it does not repeat"
    )
    rejudge.add_argument("model", metavar="MODEL")
    rejudge.add_argument("version", type=int, metavar="VERSION")
    rejudge.add_argument(
        "--on", default="", metavar="SNAPSHOT", help="judge it on another snapshot, and say what differs"
    )
    rejudge.add_argument(
        "--gates", type=Path, metavar="FILE", help="JSON list of gates, if the ledger does not keep them"
    )
    rejudge.set_defaults(run=_rejudge)


def _rollback(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.evaluation.approvals import check_bytes
    from airflow_mlops.engine.features.governance.consumers import check_features
    from airflow_mlops.engine.serving.deployments import require_deployed
    from airflow_mlops.engine.serving.going_back import version_to_go_back_to
    from airflow_mlops.hooks.tf_serving import TFServingHook

    ledger = open_ledger(options)
    require_deployed(ledger, options.server, options.model)
    use_laptop_connections(open_home(options))
    asked = (options.to, options.served_on, options.trained_before)
    to = version_to_go_back_to(ledger, options.server, options.model, *asked)
    with TFServingHook(options.server).rollout(options.model, ledger) as rollout:

        def check(version: int) -> None:
            check_features(ledger, options.model, version)
            check_bytes(ledger, options.model, version, rollout.base / str(version))

        state = rollout.rollback(who(), options.reason, to, _until(options), check)
    print(f"Version {state.stable} of {options.model} answers again, in place of {state.previous}. {_pinned(state)}")
    print("The same command again only makes sure of it. To go further back, name the version with --to.")
    _set_champion(options.model, state)


def _withdraw(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.registry.tags import delete_alias
    from airflow_mlops.engine.serving.deployments import require_deployed
    from airflow_mlops.hooks.mlflow import MLflowHook
    from airflow_mlops.hooks.tf_serving import TFServingHook

    ledger = open_ledger(options)
    require_deployed(ledger, options.server, options.model)
    use_laptop_connections(open_home(options))
    with TFServingHook(options.server).rollout(options.model, ledger) as rollout:
        rollout.withdraw(who(), options.reason)
    print(f"No version of {options.model} serves: callers are refused. The next that passes its gates is deployed.")
    try:
        delete_alias(MLflowHook().get_conn(), options.model, "champion")
    except MlopsError as error:
        print(f"MLflow's alias champion is still there: {error.headline} Run this again once it answers.")


def _set_champion(model: str, state: Deployment) -> None:
    """Let the registry follow what serves; it may be down, and nothing waits for it."""
    from airflow_mlops.hooks.mlflow import MLflowHook

    try:
        MLflowHook().get_conn().set_alias(model, str(state.stable), "champion")
    except MlopsError as error:
        print(f"MLflow's alias champion could not follow: {error.headline} Run this again once it answers.")


def _pin(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.serving.deployments import pin

    state = pin(open_ledger(options), options.server, options.model, who(), options.reason, _until(options))
    print(_pinned(state))


def _unpin(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.serving.deployments import deployment, unpin

    ledger = open_ledger(options)
    before, _ = deployment(ledger, options.server, options.model)
    state = unpin(ledger, options.server, options.model, who(), options.reason)
    if before.pin is None:
        serves = "none serves" if state.stable is None else f"version {state.stable} serves"
        raise DataError(
            f"No version of {options.model!r} is pinned on {options.server!r}.",
            detail=serves,
            hint="Nothing was changed.",
        )
    print(f"Version {state.stable} of {options.model} serves, and the next one that passes its gates is deployed.")
    _say_if_flapping(ledger, options)


def _say_if_flapping(ledger: Ledger, options: argparse.Namespace) -> None:
    from airflow_mlops.engine.serving.flapping import flapping

    if why := flapping(ledger, options.server, options.model, datetime.now(UTC)):
        print(f"But nothing is deployed by itself: {why}. To go on: `airflow-mlops roll-through {options.model}`.")


def _roll_through(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.serving.flapping import roll_through

    state = roll_through(open_ledger(options), options.server, options.model, who(), options.reason)
    print(f"Version {state.stable} of {options.model} serves, and the next one that passes its gates is deployed.")
    print(f"To train it now, trigger {options.model}.train.")


def _allow_code(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.data.lateness import require_model
    from airflow_mlops.engine.evaluation.committed import allow_uncommitted

    ledger, until = open_ledger(options), parse_day_or_moment(options.until, "--until")
    require_model(ledger, options.model)
    allow_uncommitted(ledger, options.model, options.version, who(), options.reason, until)
    print(f"Version {options.version} of {options.model} may be deployed until {until:%Y-%m-%d %H:%M} UTC.")


def _deployments(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.serving.deployments import deployment, moves, require_deployed

    ledger = open_ledger(options)
    require_deployed(ledger, options.server, options.model)
    state = deployment(ledger, options.server, options.model)[0]
    if state.stable is None:
        print(f"No version of {options.model} serves on {options.server}.")
    else:
        back = ", ".join(map(str, state.good)) or "none"
        print(f"version {state.stable} serves on {options.server}; can be gone back to: {back}")
    if state.pin is not None:
        print(_pinned(state))
    _say_if_flapping(ledger, options)
    for move in moves(ledger, options.server, options.model):
        over = f"  [{'; '.join(move.overrides)}]" if move.overrides else ""
        serves = "nothing" if move.state.stable is None else f"version {move.state.stable}"
        print(f"{move.at:%Y-%m-%d %H:%M:%S} UTC  {move.action:13} {serves:12} {move.why}{over}")


def _rejudge(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.evaluation.rejudge import demand_repeat, rejudge_version

    ledger, home = open_ledger(options), open_home(options)
    use_laptop_connections(home)
    gates = _read_gates(options.gates) if options.gates else None
    again = rejudge_version(
        ledger,
        home,
        options.model,
        options.version,
        lambda number: _saved_model(ledger, home, options.model, number),
        gates=gates,
        on=options.on,
    )
    if not options.on:
        demand_repeat(again, options.model, options.version)
        print(f"The verdict on version {options.version} of {options.model} repeats: {again.verdict.status}.")
        return
    print(f"On snapshot {options.on} version {options.version} of {options.model} is judged {again.verdict.status}.")
    for reason in again.reasons:
        print(f"  {reason}")


def _read_gates(file: Path) -> list[dict[str, Any]]:
    try:
        gates = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError("The file of gates cannot be read.", detail=f"{file}: {error}", hint=_GATES) from None
    if not isinstance(gates, list) or not all(isinstance(gate, dict) and "metric" in gate for gate in gates):
        raise ConfigError("The file of gates holds no list of gates.", detail=str(file), hint=_GATES)
    return gates


def _saved_model(ledger: Ledger, home: Path, model: str, version: int) -> Path:
    """Return where a version's SavedModel lies here; else fetch it from the registry."""
    for folder in ("models", "registry"):
        if (home / folder / model / str(version)).is_dir():
            return home / folder / model / str(version)
    from airflow_mlops.engine.registry.elsewhere import fetch_version
    from airflow_mlops.hooks.mlflow import MLflowHook

    cache = home / "registry" / model / str(version)
    return fetch_version(MLflowHook().get_conn(), ledger, model, version, cache).saved_model


def _pinned(state: Deployment) -> str:
    said = str(state.pin)
    over = "" if state.pin is None or state.pin.holds(datetime.now(UTC)) else " (it has run out)"
    return f"{said[0].upper()}{said[1:]}{over}"


def _until(options: argparse.Namespace) -> datetime | None:
    return parse_day_or_moment(options.until, "--until") if options.until else None
