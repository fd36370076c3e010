"""What serves, what served when, what is pinned and what is kept: from the ledger alone, without a model server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from airflow_mlops.contracts import Deployment, Pin
from airflow_mlops.engine.ledger import Ledger, Pointer
from airflow_mlops.exceptions import ConfigError, DataError, GateError, did_you_mean
from airflow_mlops.moments import to_come

FACT = "deployment"
PIN_TOLD = "pin_told"


class PinnedError(GateError):
    """Something else is pinned: that is somebody's will, and no failure."""


@dataclass(frozen=True)
class Moved:
    """One change of a deployment: what was done, why, and the state that it left. ``at`` is UTC."""

    at: datetime
    action: str
    why: str
    state: Deployment
    overrides: tuple[str, ...] = ()


def pointer_name(server: str, model: str) -> str:
    """Return the name of the ledger's pointer to the desired state."""
    return f"deployment:{server}:{model}"


def deployment(ledger: Ledger, server: str, model: str) -> tuple[Deployment, Pointer | None]:
    """Return the desired state of a model on a server; an empty one, and None, when it was never deployed there."""
    pointer = ledger.pointer(pointer_name(server, model))
    if pointer is None:
        return Deployment(server=server, model=model), None
    return Deployment.model_validate(pointer.value), pointer


def require_deployed(ledger: Ledger, server: str, model: str) -> None:
    """Refuse a model that nobody deployed on a server, or a server that has no such name.

    :raises DataError: with the nearest name there is.
    """
    if ledger.pointer(pointer_name(server, model)) is not None:
        return
    states = deployments(ledger)
    there = sorted({state.model for state in states if state.server == server})
    servers = sorted({state.server for state in states})
    meant = did_you_mean(model, [name for name in there if name != model]) if there else did_you_mean(server, servers)
    raise DataError(
        f"No version of {model!r} was ever deployed on {server!r}.{meant}",
        detail=f"models there: {', '.join(there)}" if there else f"servers: {', '.join(servers) or 'none yet'}",
        hint="Correct the name of the model, or of the server's connection.",
    )


def deployments(ledger: Ledger, model: str | None = None) -> list[Deployment]:
    """Return the desired state of a model, or of all, on every server, in order of the servers' names."""
    pointers = ledger.pointers("deployment:")
    return [
        Deployment.model_validate(pointer.value)
        for pointer in pointers.values()
        if model is None or pointer.value["model"] == model
    ]


def kept_versions(ledger: Ledger, model: str) -> dict[int, str]:
    """Return version → why it must stay in the store and rebuildable, in words, on whichever server.

    That is: what serves or is loaded, what is pinned, and the last good versions that can be gone back to.
    """
    return roles_of(deployments(ledger, model))


def roles_of(states: Iterable[Deployment]) -> dict[int, str]:
    """Return version → what it is for on one of the servers, of the states of one model."""
    kept: dict[int, str] = {}
    for state in states:
        roles: dict[int, str] = dict.fromkeys(state.good, "can be gone back to")
        roles |= dict.fromkeys(state.loaded, "is loaded")
        roles |= {} if state.pin is None else {state.pin.version: "is pinned"}
        roles |= {} if state.stable is None else {state.stable: "serves"}
        for version, role in roles.items():
            kept.setdefault(version, f"{role} on {state.server}")
    return kept


def moves(ledger: Ledger, server: str, model: str) -> list[Moved]:
    """Return all changes of a model's deployment on a server, newest first."""
    found = []
    for fact in ledger.facts(FACT, model, limit=None):
        payload = dict(fact.payload)
        action, why = payload.pop("action"), payload.pop("why")
        overrides = tuple(payload.pop("overrides", ()))
        if payload["server"] == server:
            found.append(Moved(fact.at, action, why, Deployment.model_validate(payload), overrides))
    return found


def lasting(history: Iterable[Moved]) -> Iterator[Moved]:
    """Yield the changes that the server followed, newest first: of one that was undone, neither it nor the undoing."""
    undone = 0
    for move in history:
        if move.action.startswith("undo "):
            undone += 1
        elif undone:
            undone -= 1
        else:
            yield move


def pin(  # noqa: PLR0917
    ledger: Ledger, server: str, model: str, who: str, reason: str, until: datetime | None = None
) -> Deployment:
    """Keep the version that serves, whatever passes its gates, until ``until`` or until it is lifted.

    :raises ConfigError: without a name and a reason, or when ``until`` is over.
    :raises GateError: when nothing serves.
    """

    def change(state: Deployment) -> Deployment:
        if state.stable is None:
            raise GateError(
                f"No version of {model!r} serves on {server!r}, so there is nothing to pin.",
                detail="the ledger has no deployment of it",
                hint=f"`airflow-mlops deployments {model}` says what serves where.",
            )
        return state.model_copy(update={"pin": make_pin(state.stable, who, reason, until)})

    return _move(ledger, server, model, "pin", f"{who}: {reason}", change)


def unpin(ledger: Ledger, server: str, model: str, who: str, reason: str) -> Deployment:
    """Lift the pin: the next version that passes its gates is deployed again. Without a pin nothing changes.

    :raises ConfigError: without a name and a reason.
    :raises DataError: when the model was never deployed on the server.
    """
    check_said(who, reason)
    require_deployed(ledger, server, model)
    return _move(
        ledger, server, model, "unpin", f"{who}: {reason}", lambda state: state.model_copy(update={"pin": None})
    )


def ask_for(ledger: Ledger, server: str, model: str, version: int, why: str) -> Deployment:
    """Write down that somebody wants a version by its number, though it was taken out or its data is older.

    That holds until the version serves, or until a rollback takes over.
    """

    def change(state: Deployment) -> Deployment:
        return state.model_copy(update={"asked": tuple(sorted({*state.asked, version}))})

    return _move(ledger, server, model, "ask", f"version {version}: {why}", change)


def pin_to_tell_of(ledger: Ledger, server: str, model: str, before: timedelta) -> Pin | None:
    """Return the pin when it runs out within ``before`` and :func:`pin_was_told` was not called for it; else None."""
    pin = deployment(ledger, server, model)[0].pin
    now = datetime.now(UTC)
    if pin is None or pin.until is None or not pin.holds(now) or pin.until - now > before:
        return None
    told = any(fact.payload == _told(server, pin) for fact in ledger.facts(PIN_TOLD, model))
    return None if told else pin


def pin_was_told(ledger: Ledger, server: str, model: str, pin: Pin) -> None:
    """Write down that somebody was told that a pin is about to run out."""
    ledger.record(PIN_TOLD, model, _told(server, pin))


def _told(server: str, pin: Pin) -> dict[str, object]:
    return {"server": server, "pin": pin.model_dump(mode="json")}


def check_pin(state: Deployment, version: int) -> None:
    """Refuse to replace what is pinned.

    :raises PinnedError: when another version is.
    """
    pin = state.pin
    if pin is not None and pin.version != version and pin.holds(datetime.now(UTC)):
        raise PinnedError(
            f"Version {version} of {state.model!r} cannot replace what is pinned on {state.server!r}.",
            detail=str(pin),
            hint=f"Lift the pin first: `airflow-mlops unpin {state.model}`, or action unpin of {state.model}.runbook.",
        )


def make_pin(version: int, who: str, reason: str, until: datetime | None) -> Pin:
    """Return a pin that begins now.

    :raises ConfigError: without a name and a reason, or when ``until`` is over.
    """
    check_said(who, reason)
    ends = to_come(until, "the pin")
    return Pin(version=version, who=who.strip(), reason=reason.strip(), at=datetime.now(UTC), until=ends)


def check_said(who: str, reason: str) -> None:
    """Refuse what nobody answers for.

    :raises ConfigError: without a name or a reason.
    """
    if not who.strip() or not reason.strip():
        raise ConfigError(
            "Somebody must answer for this, and say why.",
            detail=f"by {who!r}, because {reason!r}",
            hint="Give both: they are kept in the ledger, and shown to whoever asks.",
        )


def record(ledger: Ledger, state: Deployment, action: str, why: str, overrides: tuple[str, ...] = ()) -> None:
    """Append what was done, why, over which guards, and the state that it left."""
    payload = {"action": action, "why": why, **state.model_dump(mode="json")}
    ledger.record(FACT, state.model, {**payload, **({"overrides": list(overrides)} if overrides else {})})


def _move(  # noqa: PLR0917
    ledger: Ledger, server: str, model: str, action: str, why: str, change: Callable[[Deployment], Deployment]
) -> Deployment:
    before, _ = deployment(ledger, server, model)
    after = ledger.move(
        pointer_name(server, model),
        lambda value: change(
            Deployment(server=server, model=model) if value is None else Deployment.model_validate(value)
        ).model_dump(mode="json"),
    )
    state = before if after is None else Deployment.model_validate(after.value)
    if state != before:
        record(ledger, state, action, why)
    return state
