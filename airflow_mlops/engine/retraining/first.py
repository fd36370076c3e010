"""One first, and then all: what a member of a fleet waits for that is not the first to try new code."""

from __future__ import annotations

from airflow_mlops.contracts import VerdictStatus
from airflow_mlops.engine.evaluation.approvals import last_verdicts
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.registered import FACT


def waits_for_first(ledger: Ledger, model: str, first: str, code: str) -> str:
    """Return why a member does not train by itself yet, in words; empty: it may.

    It may with the code of its last version, or with code of which a version of the first has passed its gates.

    :param first: Model of the member that tries new code before all others.
    :param code: Hash of the code that a training runs now; empty: it is not known, and nobody waits.
    """
    last = [fact.payload.get("code", "") for fact in ledger.facts(FACT, model, limit=1)]
    if not code or last in ([code], [""]):  # one of a release that did not keep it counts as the same
        return ""
    passed = {version for version, said in last_verdicts(ledger, first).items() if said["status"] == VerdictStatus.PASS}
    tried = {
        fact.payload["version"] for fact in ledger.facts(FACT, first, limit=None) if fact.payload.get("code") == code
    }
    return "" if passed & tried else f"its code is new, and no version of {first} has passed its gates with it yet"
