"""What an upstream says of itself: ``degraded`` holds all training downstream until it says ``ok``."""

from __future__ import annotations

from typing import get_args

from airflow_mlops.contracts import Announcement
from airflow_mlops.engine.ledger import Fact, Ledger
from airflow_mlops.exceptions import ConfigError, did_you_mean

FACT = "announcement"
_STATES: tuple[str, ...] = get_args(Announcement.model_fields["state"].annotation)


def announce(ledger: Ledger, dataset: str, state: str, reason: str, who: str) -> Announcement:
    """Record what an upstream announces and return it; the same again, with nothing in between, is not recorded twice.

    The dataset need not be known: an upstream may announce before its first day is sealed. Where a person types its
    name, check it first: :func:`~airflow_mlops.engine.data.sources.require_dataset`.

    :param state: ``degraded`` or ``ok``.
    :param reason: What is wrong, or what was done about it, in words.
    :param who: The person or system that says so.
    :raises ConfigError: when the state is unknown, or anything is empty.
    """
    if state not in _STATES:
        raise ConfigError(
            f"A dataset cannot be announced {state!r}.{did_you_mean(str(state), _STATES)}",
            detail=f"dataset {dataset!r}; states: {', '.join(_STATES)}",
            hint="Announce 'degraded' to hold what trains on it, 'ok' to let it go on.",
        )
    require(f"The announcement about {dataset!r}", dataset=dataset, reason=reason, who=who)
    payload = {"state": state, "reason": reason, "who": who}
    latest = ledger.facts(FACT, dataset, limit=1)
    if latest and latest[0].payload == payload:
        return _announcement(latest[0])
    recorded = ledger.record(FACT, dataset, payload)
    # By its id: somebody else may have announced something since.
    return next(_announcement(fact) for fact in ledger.facts(FACT, dataset) if fact.id == recorded)


def announced(ledger: Ledger, dataset: str) -> Announcement | None:
    """Return the latest announcement about a dataset, or None when there was none."""
    latest = ledger.facts(FACT, dataset, limit=1)
    return _announcement(latest[0]) if latest else None


def require(what: str, **texts: object) -> None:
    """Check that each is text and not empty: whoever reads the ledger later must learn why, and whom to ask.

    :raises ConfigError: when one is not.
    """
    empty = [name for name, text in texts.items() if not isinstance(text, str) or not text.strip()]
    if empty:
        raise ConfigError(
            f"{what} lacks: {', '.join(empty)}.",
            detail="empty, only spaces, or no text",
            hint="Say it in words: it is what people on call will read.",
        )


def _announcement(fact: Fact) -> Announcement:
    return Announcement(dataset=fact.subject, at=fact.at, **fact.payload)
