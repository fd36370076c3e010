"""``/api/v1/models/{model}/halt`` and ``/resume``: the red button, for whoever may change assets."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_asset
from fastapi import APIRouter, Depends, status
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from airflow_mlops.contracts import Halt
from airflow_mlops.ui.announcements import not_from_a_form, open_ledger

if TYPE_CHECKING:
    from airflow_mlops.engine.ledger import Ledger

router = APIRouter()
_WRITES = [Depends(requires_access_asset("POST")), Depends(not_from_a_form)]


class HaltRequest(BaseModel):
    """The body of a halt."""

    model_config = ConfigDict(extra="forbid")

    reason: str
    until: AwareDatetime | None = None
    untrained: bool = Field(default=False, description="the model never trained yet: its name is not checked")


class ResumeRequest(BaseModel):
    """The body of a resume."""

    model_config = ConfigDict(extra="forbid")

    reason: str


class HaltState(BaseModel):
    """Whether a model is halted, and by whom, why and until when."""

    model: str
    halted: bool
    who: str | None = None
    reason: str | None = None
    until: datetime | None = None


@router.get("/models/{model}/halt", dependencies=[Depends(requires_access_asset("GET"))])
def show_halt(model: str) -> HaltState:
    """Say whether a model is halted."""
    from airflow_mlops.engine.halts import halted

    ledger = open_ledger()
    return _state(model, _known(ledger, model, halted(ledger, model)))


@router.post("/models/{model}/halt", status_code=status.HTTP_201_CREATED, dependencies=_WRITES)
def halt_model(model: str, said: HaltRequest, user: GetUserDep) -> HaltState:
    """Halt a model, in the name of whoever is logged in."""
    from airflow_mlops.engine.halts import halt, require_trained

    ledger = open_ledger()
    if not said.untrained:
        require_trained(ledger, model, '"untrained": true')
    return _state(model, halt(ledger, model, user.get_name(), said.reason, said.until))


@router.post("/models/{model}/resume", dependencies=_WRITES)
def resume_model(model: str, said: ResumeRequest, user: GetUserDep) -> HaltState:
    """End a halt, in the name of whoever is logged in."""
    from airflow_mlops.engine.halts import halted, resume

    ledger = open_ledger()
    _known(ledger, model, resume(ledger, model, user.get_name(), said.reason))
    return _state(model, halted(ledger, model))


def _known(ledger: Ledger, model: str, made: Halt | None) -> Halt | None:
    """Refuse the name of a model that is not halted and never was trained: it may be mistyped."""
    from airflow_mlops.engine.data.lateness import require_model

    if made is None:
        require_model(ledger, model)
    return made


def _state(model: str, made: Halt | None) -> HaltState:
    if made is None:
        return HaltState(model=model, halted=False)
    return HaltState(model=model, halted=True, who=made.who, reason=made.reason, until=made.until)
