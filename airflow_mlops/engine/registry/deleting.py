"""Old versions of a model, deleted from the registry; never one that somebody needs.

What goes is the entry of the registry: MLflow keeps the run of a version and its files, and copies of the version
still have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_mlops.engine.evaluation.approvals import FACT as VERDICT
from airflow_mlops.engine.evaluation.approvals import approved_last
from airflow_mlops.engine.features.governance import consumers
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.registry.connection import NO_SUCH_THING, talking_to
from airflow_mlops.engine.registry.copying import COPIED_FROM
from airflow_mlops.engine.registry.lookup import require_model, versions_of
from airflow_mlops.engine.registry.registry import TRAINING_ID, Registry
from airflow_mlops.engine.serving.deployments import deployments, kept_versions
from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

FACT = "versions_deleted"


@dataclass(frozen=True)
class Deletion:
    """The versions that went, or would go, newest first; and version → why it stays."""

    model: str
    deleted: tuple[int, ...]
    spared: dict[int, str]


def delete_versions(
    registry: Registry, ledger: Ledger | None, model: str, *, keep: int, dry_run: bool = False
) -> Deletion:
    """Delete all but the newest ``keep`` versions, and those that are needed.

    Needed is what has an alias; and by the ledger what serves, is loaded, pinned, asked for by number or can be gone
    back to, on any server, and what would be deployed next. Each version is looked at again just before it goes.

    :param ledger: Of all deployments of the model; None when nothing of it is deployed by this package.
    :param keep: How many of the newest stay; 1 at least.
    :param dry_run: Delete nothing.
    :raises ConfigError: when ``keep`` is too small, or the ledger is not that of the model.
    :raises DataError: when there is no such model.
    :raises TransientError: when MLflow or the ledger does not answer. Repeating it goes on.
    """
    if keep < 1:
        raise ConfigError(
            "The newest version of a model is never deleted.", detail=f"keep={keep}", hint="Keep 1 or more."
        )
    versions = versions_of(registry, model)
    _check_known(ledger, model, versions)
    numbers = [int(one.version) for one in versions]
    needed = _needed(registry, ledger, model)
    newest = f"is among the newest {keep}" if keep > 1 else "is the newest"
    spared = {number: needed.get(number, newest) for number in numbers if number in numbers[:keep] or number in needed}
    going = [number for number in numbers if number not in spared]
    if dry_run or not going:
        return Deletion(model, tuple(going), spared)
    if ledger is not None:
        ledger.record(FACT, model, {"versions": going, "keep": keep})
    deleted = []
    for number in going:
        why = _needed(registry, ledger, model).get(number)  # somebody may need it since
        if why is not None:
            spared[number] = why
        elif _delete(registry, model, number):
            deleted.append(number)
    return Deletion(model, tuple(deleted), dict(sorted(spared.items(), reverse=True)))


def _needed(registry: Registry, ledger: Ledger | None, model: str) -> dict[int, str]:
    """Return version → why it must stay, in words."""
    needed: dict[int, str] = {}
    for alias, version in sorted(require_model(registry, model).aliases.items()):
        needed.setdefault(int(version), f"has the alias {alias}")
    if ledger is None:
        return needed
    served = kept_versions(ledger, model)
    asked = {
        number: f"is asked for on {state.server}" for state in deployments(ledger, model) for number in state.asked
    }
    return {**approved_last(ledger, model), **asked, **needed, **served}


def _check_known(ledger: Ledger | None, model: str, versions: Sequence[ModelVersion]) -> None:
    """Refuse the ledger of another registry: it would say of everything here that nobody needs it."""
    if ledger is None or not any(TRAINING_ID in one.tags and COPIED_FROM not in one.tags for one in versions):
        return
    facts = (ledger.facts(kind, model, limit=1) for kind in (consumers.KIND, VERDICT))
    if not any(facts) and not deployments(ledger, model):
        raise ConfigError(
            f"The ledger knows nothing of {model!r}, which was registered with one: it is that of another MLflow.",
            detail=f"{len(versions)} versions in the registry, none in the ledger",
            hint="Correct the connection of type mlops_ledger, or of type mlflow. Nothing was deleted.",
        )


def _delete(registry: Registry, model: str, number: int) -> bool:
    """Delete a version; return False when somebody else was faster."""
    from mlflow.exceptions import MlflowException

    with talking_to(registry.tracking_uri):
        try:
            registry.client.delete_model_version(model, str(number))
        except MlflowException as error:
            if error.error_code != NO_SUCH_THING:
                raise
            return False
    return True
