"""Code that nobody committed: what it made does not serve, unless somebody answers for it by name, for a while."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from airflow_mlops.contracts import ModelManifest
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.registry.manifest import MANIFEST_FILE, UNKNOWN
from airflow_mlops.engine.serving.deployments import check_said
from airflow_mlops.exceptions import ConfigError, GateError, did_you_mean
from airflow_mlops.moments import to_come

FACT = "code_override"


def uncommitted(saved_model: Path) -> str:
    """Return in words what is not committed of the code that made a SavedModel; empty: all of it is."""
    try:
        manifest = ModelManifest.from_json((saved_model / MANIFEST_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return "nothing says what code it came from"
    if manifest.code_version == UNKNOWN:
        return "its code lay in no git repository"
    return f"its code had changes on commit {manifest.code_version[:12]}" if manifest.code_dirty else ""


def allow_uncommitted(  # noqa: PLR0917
    ledger: Ledger, model: str, version: int, who: str, reason: str, until: datetime
) -> None:
    """Let a version of uncommitted code be deployed until a moment.

    :raises ConfigError: without a name and a reason, or when ``until`` is over.
    """
    check_said(who, reason)
    ends = to_come(until, "what is allowed")
    assert ends is not None
    told = {"who": who.strip(), "reason": reason.strip(), "until": ends.isoformat()}
    ledger.record(FACT, model, told, key=str(version))


def check_committed(ledger: Ledger, model: str, version: int, saved_model: Path, code: str) -> str:
    """Refuse a version that came of code which is in no commit.

    :param code: ``committed``, or ``any``: then nothing is refused.
    :returns: Who allowed it all the same, why and until when, in words; empty: nobody had to.
    :raises ConfigError: when ``code`` is neither.
    :raises GateError: when nobody answers for it now.
    """
    if code not in ("any", "committed"):
        raise ConfigError(
            f"code={code!r} is unknown.{did_you_mean(code, ('any', 'committed'))}", hint="any, or committed."
        )
    why = uncommitted(saved_model) if code == "committed" else ""
    if not why:
        return ""
    found = ledger.facts(FACT, model, key=str(version), limit=1)
    said = found[0].payload if found else None
    words = (
        f"allowed by {said['who']} until {said['until'][:16].replace('T', ' ')} UTC: {said['reason']}" if said else ""
    )
    if said is not None and datetime.now(UTC) < datetime.fromisoformat(said["until"]):
        return f"{why}: {words}"
    raise GateError(
        f"Version {version} of {model!r} is not deployed: {why}.",
        detail=f"it was {words}" if words else "nobody answers for it",
        hint=f"Commit the code and train again. Or answer for it: `airflow-mlops allow-code {model} {version} --reason "
        "... --until ...`.",
    )
