"""``/api/v1/sources/{dataset}/exclusions``: windows of bad data that no training set may contain."""

from __future__ import annotations

from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_asset
from fastapi import APIRouter, Depends, status
from pydantic import AwareDatetime, BaseModel, ConfigDict

from airflow_mlops.contracts import Exclusion
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.ui.announcements import not_from_a_form, open_ledger

router = APIRouter()
_WRITES = [Depends(requires_access_asset("POST")), Depends(not_from_a_form)]


class Window(BaseModel):
    """The body of an exclusion."""

    model_config = ConfigDict(extra="forbid")

    start: AwareDatetime
    end: AwareDatetime
    reason: str


class Lifting(BaseModel):
    """The body of the end of an exclusion."""

    model_config = ConfigDict(extra="forbid")

    reason: str


@router.get("/sources/{dataset}/exclusions", dependencies=[Depends(requires_access_asset("GET"))])
def list_exclusions(dataset: str) -> list[Exclusion]:
    """Return the exclusions in force for a dataset, earliest start first."""
    from airflow_mlops.engine.data.exclusions import exclusions
    from airflow_mlops.engine.data.sources import require_dataset

    ledger = open_ledger()
    require_dataset(ledger, dataset)
    return exclusions(ledger, dataset)


@router.post("/sources/{dataset}/exclusions", status_code=status.HTTP_201_CREATED, dependencies=_WRITES)
def add_exclusion(dataset: str, window: Window, user: GetUserDep) -> Exclusion:
    """Exclude a window, in the name of whoever is logged in, unless nothing at all would be left."""
    from airflow_mlops.engine.data.exclusions import check_something_left, exclude
    from airflow_mlops.engine.data.sources import require_dataset
    from airflow_mlops.operators.base import open_home, partition_store

    ledger = open_ledger()
    require_dataset(ledger, dataset)
    store = partition_store(open_home(), ledger)
    keys, cut = store.keys(dataset), store.partitioning(dataset)
    check_something_left(ledger, dataset, window.start, window.end, keys, cut)
    return exclude(ledger, dataset, window.start, window.end, window.reason, user.get_name())


@router.post("/sources/{dataset}/exclusions/{exclusion}/lift", dependencies=_WRITES)
def lift_exclusion(dataset: str, exclusion: str, said: Lifting, user: GetUserDep) -> Exclusion:
    """End an exclusion, in the name of whoever is logged in."""
    from airflow_mlops.engine.data.exclusions import exclusions, lift

    ledger = open_ledger()
    if exclusion not in {one.id for one in exclusions(ledger, dataset)}:
        raise ConfigError(
            f"{dataset} has no exclusion {exclusion!r} in force.", hint="Somebody may have lifted it already."
        )
    return lift(ledger, exclusion, said.reason, user.get_name())
