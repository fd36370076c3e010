"""Who may see and who may act on which model: as Airflow's auth manager says it of the model's DAGs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.models.asset import TaskOutletAssetReference
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from fastapi import Depends, HTTPException, status

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

STAGES = (
    *("train", "deploy", "retrain", "rollup", "features", "sources", "backfill", "runbook"),
    *("rollback", "exclude", "roll_through", "batch_predict", "history", "rerun"),
)
"""What the DAGs of a model are called behind its name."""


_SEEN = {"success": "arrived", "failed": "missing", "upstream_failed": "missing", "removed": "missing"}
_WAITS = 1000


@dataclass(frozen=True)
class Dag:
    """A DAG of a model, as Airflow has it."""

    dag_id: str
    paused: bool
    next_run: datetime | None
    schedule: str


@dataclass(frozen=True)
class Access:
    """What a user may see. Models without a DAG in this Airflow are for those who may read every DAG.

    :param running: The runs of trainings that go on, as the ledger names a run: ``<dag> <run>``.
    :param failed: Of each DAG that trains, the last run that failed.
    """

    user: BaseUser
    dags: Mapping[str, Dag]
    readable: frozenset[str]
    running: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()

    def of(self, model: str) -> dict[str, Dag]:
        """Return stage → the DAG of a model."""
        named = {stage: self.dags.get(f"{model}.{stage}") for stage in STAGES}
        return {stage: dag for stage, dag in named.items() if dag is not None}

    def may_read(self, model: str) -> bool:
        """Whether the user may read all DAGs of a model."""
        ids = {dag.dag_id for dag in self.of(model).values()}
        return ids <= self.readable if ids else self.dags.keys() <= self.readable

    def models(self, recorded: Iterable[str]) -> list[str]:
        """Return the names of the models that the user may see: those of the ledger, and those with DAGs only."""
        with_dags = {
            dag_id.rpartition(".")[0] for dag_id in self.dags if dag_id.rpartition(".")[2] in ("train", "deploy")
        }
        return sorted(name for name in {*recorded, *with_dags} if name and self.may_read(name))

    def require(self, model: str) -> None:
        """Refuse a model whose DAGs the user may not read, whether or not there is one of that name.

        :raises HTTPException: 403.
        """
        if not self.may_read(model):
            raise HTTPException(status.HTTP_403_FORBIDDEN, "Forbidden")

    def may_trigger(self, dag_id: str) -> bool:
        """Whether the user may start runs of a DAG."""
        details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
        return get_auth_manager().is_authorized_dag(
            method="POST", access_entity=DagAccessEntity.RUN, details=details, user=self.user
        )

    def may_change_assets(self) -> bool:
        """Whether the user may say things about datasets."""
        return get_auth_manager().is_authorized_asset(method="POST", user=self.user)


def access(user: GetUserDep, session: SessionDep) -> Access:
    """Return what the caller may see; 401 for one who is not logged in."""
    from sqlalchemy import func, select

    columns = (
        DagModel.dag_id,
        DagModel.is_paused,
        DagModel.next_dagrun_create_after,
        DagModel.timetable_summary,
    )
    found = session.execute(select(*columns).where(DagModel.is_stale.is_(False))).all()
    dags = {row.dag_id: Dag(row.dag_id, row.is_paused, row[2], row[3] or "") for row in found}
    readable = get_auth_manager().get_authorized_dag_ids(user=user, method="GET", session=session)
    trainings = [dag_id for dag_id in dags if dag_id.endswith(".train")]
    of_trainings = select(DagRun.dag_id, DagRun.run_id).where(DagRun.dag_id.in_(trainings))
    last = select(func.max(DagRun.id)).where(DagRun.state == "failed", DagRun.dag_id.in_(trainings))
    running, failed = (
        frozenset(f"{dag_id} {run_id}" for dag_id, run_id in session.execute(of_trainings.where(which)))
        for which in (DagRun.state == "running", DagRun.id.in_(last.group_by(DagRun.dag_id)))
    )
    return Access(user, dags, frozenset(readable), running, failed)


def run_of(session: Session, dag_id: str, run_id: str) -> DagRun | None:
    """Return a run of a DAG, as Airflow has it."""
    from sqlalchemy import select

    return session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))


def worked_on(session: Session, dag_id: str, dataset: str, since: str = "") -> dict[str, str]:
    """Return partition → ``awaited``, ``arrived`` or ``missing``: what the last runs that are to seal it have seen.

    :param dag_id: The features DAG of a model.
    :param since: Leave out keys before this one; those of days to come, which somebody mistyped, are left out always.
    """
    from sqlalchemy import select

    to_come = datetime.now(UTC).date() + timedelta(days=2)
    waits = select(DagRun.partition_key, TaskInstance.state)
    waits = waits.join(TaskInstance, (TaskInstance.dag_id == DagRun.dag_id) & (TaskInstance.run_id == DagRun.run_id))
    waits = waits.where(DagRun.dag_id == dag_id, TaskInstance.task_id == f"{dataset}.wait")
    waits = waits.where(DagRun.partition_key >= since, DagRun.partition_key < str(to_come))
    waits = waits.order_by(DagRun.partition_key.desc(), DagRun.id.desc())
    found: dict[str, str] = {}
    for key, state in session.execute(waits.limit(_WAITS)):
        if key and state != "skipped":  # the feed does not begin before
            found.setdefault(key, _SEEN.get(state or "", "awaited"))
    return found


def sealed_by(session: Session, dag_id: str) -> list[str]:
    """Return the datasets of which a features DAG seals partitions, whether or not a model was trained on them."""
    from sqlalchemy import select

    seals = select(TaskOutletAssetReference.task_id).where(TaskOutletAssetReference.dag_id == dag_id)
    found = session.scalars(seals.where(TaskOutletAssetReference.task_id.endswith(".seal")))
    return sorted({task_id.removesuffix(".seal") for task_id in found})


AccessDep = Annotated[Access, Depends(access)]
