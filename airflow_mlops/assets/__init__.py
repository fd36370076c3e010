"""The Airflow assets that the DAGs produce and wait for.

An asset event is a doorbell, not a payload: events can be lost, merged or doubled, so whoever is woken reads
the ledger for what there is to do.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from airflow.sdk import Asset

if TYPE_CHECKING:
    from pydantic import JsonValue

# Airflow looks up a normaliser for every other scheme, and that imports the handlers of all installed providers:
# with amazon's, boto3, 0.9 s at every parse and in every task.
SCHEME = "x-mlops"


class _Asset(Asset):
    """An asset that works its hash out once: Airflow asks for it with every edge of a DAG that waits for it."""

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()


def _owned(owner: str) -> dict[str, JsonValue]:
    """Return the extra of a model's asset: who answers for the model. Consumers say ``Asset.ref(name=...)``."""
    return {"owner": owner} if owner else {}


def partitions_asset(dataset: str) -> Asset:
    """Sealed partitions of a dataset; its events carry the partition key."""
    return _Asset(name=f"{dataset}.partitions", uri=f"{SCHEME}://partitions/{dataset}", group="mlops")


def features_asset(model: str, owner: str = "") -> Asset:
    """Features of a model, fresh in the online store; its events carry the partition key."""
    return _Asset(name=f"{model}.features", uri=f"{SCHEME}://features/{model}", group="mlops", extra=_owned(owner))


def challenger_asset(model: str, owner: str = "") -> Asset:
    """A newly registered version of a model that passed its gates."""
    return _Asset(
        name=f"{model}.challenger", uri=f"{SCHEME}://models/{model}/challenger", group="mlops", extra=_owned(owner)
    )


def champion_asset(model: str, owner: str = "") -> Asset:
    """The version of a model that serves."""
    return _Asset(
        name=f"{model}.champion", uri=f"{SCHEME}://models/{model}/champion", group="mlops", extra=_owned(owner)
    )


def announcements_asset(dataset: str) -> Asset:
    """What the upstream says of a dataset; the extra of its events is ``{"state": "degraded" | "ok", "reason"}``.

    Here the event is the payload: an upstream that must be sure posts to the plugin's REST API, which answers.
    """
    return _Asset(name=f"{dataset}.announcements", uri=f"{SCHEME}://announcements/{dataset}", group="mlops")
