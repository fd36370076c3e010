"""The red button: while a model is halted nothing new comes of it, and what serves goes on serving."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow_mlops.contracts import Halt
from airflow_mlops.engine.data.announcements import require
from airflow_mlops.engine.data.lateness import require_model
from airflow_mlops.engine.ledger import Ledger, Pointer
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.moments import to_come

FACT = "halt"


def halt(ledger: Ledger, model: str, who: str, reason: str, until: datetime | None = None) -> Halt:
    """Halt a model: no training starts, a running one registers nothing, nothing is deployed. What serves stays.

    Somebody can still go back to an earlier version. Halting again replaces who, why and until.

    :param until: When the halt runs out; None: when somebody resumes.
    :raises ConfigError: without a name and a reason, or when ``until`` is over or has no time zone.
    """
    require(f"The halt of {model!r}", model=model, who=who, reason=reason)
    ends = to_come(until, "the halt")
    made = Halt(model=model, who=who.strip(), reason=reason.strip(), at=datetime.now(UTC), until=ends)
    _point(ledger, model, made.model_dump(mode="json"))
    ledger.record(FACT, model, {"action": "halt", **made.model_dump(mode="json")})
    return made


def require_trained(ledger: Ledger, model: str, unless: str) -> None:
    """Refuse the name of a model that never trained: a halt of a mistyped one would stop nothing.

    :param unless: What to write for a model that really never trained.
    :raises ConfigError: with the nearest name there is.
    """
    try:
        require_model(ledger, model)
    except ConfigError as error:
        raise ConfigError(
            error.headline, error.detail, f"{error.hint} Of one that shall not even begin, say {unless}."
        ) from None


def resume(ledger: Ledger, model: str, who: str, reason: str) -> Halt | None:
    """End a halt, and return the one that was ended; None when there was none.

    :raises ConfigError: without a name and a reason.
    """
    require(f"To resume {model!r}", model=model, who=who, reason=reason)
    ended = halted(ledger, model)
    if ended is not None:
        _point(ledger, model, {})
        ledger.record(FACT, model, {"action": "resume", "who": who.strip(), "reason": reason.strip()})
    return ended


def halted(ledger: Ledger, model: str) -> Halt | None:
    """Return the halt of a model; None when it was resumed, has run out, or never was."""
    return _holds(ledger.pointer(_name(model)))


def halts(ledger: Ledger) -> list[Halt]:
    """Return all halts that hold, by model."""
    return [made for pointer in ledger.pointers(_name("")).values() if (made := _holds(pointer)) is not None]


def _holds(pointer: Pointer | None) -> Halt | None:
    made = Halt.model_validate(pointer.value) if pointer is not None and pointer.value else None
    return made if made is not None and (made.until is None or datetime.now(UTC) < made.until) else None


def _point(ledger: Ledger, model: str, value: dict[str, object]) -> None:
    ledger.move(_name(model), lambda _present: value)


def _name(model: str) -> str:
    return f"halt:{model}"
