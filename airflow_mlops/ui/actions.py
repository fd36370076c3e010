"""What a person can do to a model from its page: each is a run of one of its DAGs, which Airflow starts and guards.

The browser asks Airflow's own API for the run. So it is Airflow that decides who may, checks the fields of the form,
and keeps who did it; and a trigger by hand, by command or by page is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_mlops.engine.overview.models import ModelRow
from airflow_mlops.ui.access import Access


@dataclass(frozen=True)
class Action:
    """A button. ``fixed`` of the DAG's params it sets, ``fields`` it asks for; ``refused`` says why it is off.

    ``rare`` are further fields, which are folded away.
    """

    name: str
    title: str
    stage: str
    help: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    rare: tuple[str, ...] = ()
    danger: bool = False
    dag_id: str = ""
    paused: bool = False
    refused: str = ""
    post: str = ""


_GO_BACK, _OVERRIDE = ("to_version", "served_on", "trained_before", "until"), ("override_by", "override_reason")
_BACK = "An earlier version answers again, and is pinned."
_FORWARD = "Through a bad time, where no version is good to go back to: its pin is lifted, and it is trained now."
_ALL = (
    Action(
        "train",
        "Train",
        "train",
        "A challenger is trained and judged; it serves once it passed.",
        fields=("as_of", "only_say"),
        rare=("window", "exclude", "slices", "data", "weight", "model_params"),
    ),
    Action(
        "deploy",
        "Deploy",
        "deploy",
        "It is proven beside what serves, and then answers callers.",
        fields=("version", "signature_changes"),
    ),
    Action("rollback", "Roll back", "rollback", _BACK, fields=_GO_BACK, rare=_OVERRIDE, danger=True),
    Action("roll_through", "Roll through", "roll_through", _FORWARD, fields=("confirm",), danger=True),
    Action(
        "pin",
        "Pin",
        "runbook",
        "The version that serves stays, whatever passes its gates.",
        {"action": "pin"},
        ("until",),
    ),
    Action(
        "unpin",
        "Unpin",
        "runbook",
        "The next version that passes its gates is deployed again.",
        {"action": "unpin"},
    ),
    Action(
        "halt",
        "Halt",
        "runbook",
        "Nothing is trained, registered or deployed; what serves stays.",
        {"action": "halt"},
        ("until",),
        danger=True,
    ),
    Action(
        "resume",
        "Resume",
        "runbook",
        "The halt is over. What waited goes on; of what was skipped, clear the tasks.",
        {"action": "resume"},
    ),
    Action(
        "backfill",
        "Plan a backfill",
        "backfill",
        "It says first what there is to do and what it costs. Above a limit a person is asked; else it is done.",
        fields=("first", "last", "retrain"),
        rare=("order", "ordered", "partitions"),
    ),
)


def actions(access: Access, row: ModelRow) -> dict[str, Action]:
    """Return the actions that make sense for a model as it is now, by name; those that the user may not do are off."""
    dags = access.of(row.model)
    may = {stage: access.may_trigger(dag.dag_id) for stage, dag in dags.items()}
    serves = any(one.version is not None for one in row.serving)
    pinned = any(one.pin for one in row.serving)
    fits = {
        "rollback": serves,
        "roll_through": serves,
        "pin": serves and not pinned,
        "unpin": pinned,
        "halt": not row.halt,
        "resume": bool(row.halt),
    }
    made: dict[str, Action] = {}
    for one in _ALL:
        dag = dags.get(one.stage)
        if dag is not None and fits.get(one.name, True):
            refused = "" if may[one.stage] else f"You may not start runs of {dag.dag_id}."
            told = {**one.__dict__, "dag_id": dag.dag_id, "paused": dag.paused, "refused": refused}
            made[one.name] = Action(**told)
    return made
