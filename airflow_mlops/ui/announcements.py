"""``/api/v1/sources/{dataset}/announcements``: an upstream says that its data is degraded, or well again."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated

from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_asset
from fastapi import APIRouter, Depends, Header, status
from pydantic import BaseModel, ConfigDict

from airflow_mlops.contracts import Announcement
from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    from airflow_mlops.engine.ledger import Ledger

router = APIRouter()


class Said(BaseModel):
    """The body of an announcement."""

    model_config = ConfigDict(extra="forbid", strict=True)

    state: str
    reason: str


def not_from_a_form(x_requested_by: Annotated[str | None, Header()] = None) -> None:
    """Refuse a request that another site could have had a browser send with its user's cookie.

    Airflow has no CSRF token. Neither a form nor a script of another origin can set this header.
    """
    if not x_requested_by:
        raise ConfigError(
            "The header X-Requested-By is missing.",
            detail="without it, another site could send this in the name of whoever is logged in",
            hint="Add it with any value, such as the name of your system.",
        )


# Plain functions, not coroutines: FastAPI runs them in threads, since the ledger blocks.


@router.get("/sources/{dataset}/announcements", dependencies=[Depends(requires_access_asset("GET"))])
def list_announcements(dataset: str) -> list[Announcement]:
    """Return what was announced of a dataset, newest first."""
    from airflow_mlops.engine.data.sources import announcements, require_dataset

    ledger = open_ledger()
    require_dataset(ledger, dataset)
    return announcements(ledger, dataset)


@router.post(
    "/sources/{dataset}/announcements",
    status_code=status.HTTP_201_CREATED,
    dependencies=[Depends(requires_access_asset("POST")), Depends(not_from_a_form)],
)
def add_announcement(dataset: str, said: Said, user: GetUserDep) -> Announcement:
    """Announce a dataset ``degraded`` or ``ok``, in the name of whoever is logged in."""
    from airflow_mlops.engine.data.announcements import announce
    from airflow_mlops.engine.data.sources import require_dataset

    ledger = open_ledger()
    require_dataset(ledger, dataset)
    return announce(ledger, dataset, said.state, said.reason, user.get_name())


def open_ledger() -> Ledger:
    """Return the ledger behind the connection ``mlops_ledger_default``, with its pool kept between requests."""
    from airflow_mlops.hooks.ledger import LedgerHook

    return _ledger(LedgerHook().url)


@cache
def _ledger(url: str) -> Ledger:
    from airflow_mlops.engine.ledger import Ledger

    return Ledger(url)
