"""The pages: Models, a model, its versions and data, and the tab on the pages of DAGs, runs and tasks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import get_user, requires_access_dag
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.overview.models import ModelRow, models, rows
from airflow_mlops.engine.overview.partitions import Calendar, calendar
from airflow_mlops.engine.overview.runs import RunFacts, cost_of, of_run
from airflow_mlops.engine.overview.timeline import timeline
from airflow_mlops.engine.overview.versions import PAGE, Version, compared, count, detail, versions
from airflow_mlops.exceptions import DataError, MlopsError, did_you_mean
from airflow_mlops.ui.access import STAGES, Access, AccessDep, run_of, sealed_by, worked_on
from airflow_mlops.ui.actions import actions
from airflow_mlops.ui.announcements import open_ledger
from airflow_mlops.ui.drawing import drawn
from airflow_mlops.ui.profiles import profiles_of, profiles_of_view
from airflow_mlops.ui.rendering import HEADERS, STATIC, page

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

router = APIRouter()
Number = Annotated[int, Query(ge=1, le=10_000_000)]
_METRICS = 5
"""Most metrics that have a column of their own in the list of versions."""
_SIDE_BY_SIDE = 2
_NO_ASSETS = "You may not change assets in Airflow."


@router.get("/static/{name}", dependencies=[Depends(get_user)])
def static(name: str) -> FileResponse:
    """Return a script, a style sheet or an icon."""
    if not re.fullmatch(r"[a-z-]+\.(css|js|svg)", name) or not (STATIC / name).is_file():
        raise DataError(f"There is no file {name!r}.", hint="Load the page again.")
    return FileResponse(STATIC / name, headers=HEADERS)


@router.get("/models")
def list_models(request: Request, access: AccessDep) -> HTMLResponse:
    """Show all models that the user may see; those with DAGs also while the ledger is down."""
    problem, recorded, found = None, [], {}
    try:
        ledger = open_ledger()
        recorded = models(ledger)
        found = {row.model: row for row in rows(ledger, access.models(recorded))}
    except MlopsError as error:
        problem = error
    shown = [found.get(name, ModelRow(name)) for name in access.models(recorded)]
    states = sorted(Counter(row.state for row in shown).items())
    told = {"rows": shown, "states": states, "access": access, "problem": problem}
    return page(request, "models.html", told, 503 if problem else 200)


@router.get("/models/{model:path}/training")
def show_training(request: Request, access: AccessDep, model: str) -> HTMLResponse:
    """Show how far a training is: the page asks for it again and again."""
    access.require(model)
    return page(request, "training.html", {"training": _training(open_ledger(), model, access)})


@router.get("/models/{model:path}/compare")
def show_compared(request: Request, access: AccessDep, model: str, one: Number, two: Number) -> HTMLResponse:
    """Show two versions side by side."""
    access.require(model)
    return page(request, "compare.html", {"model": model, "both": compared(open_ledger(), model, one, two)})


@router.get("/models/{model:path}/versions/{number}")
def show_version(request: Request, access: AccessDep, model: str, number: int) -> HTMLResponse:
    """Show a version: its verdict, what it was made of, its partitions."""
    access.require(model)
    return page(request, "version.html", {"model": model, "one": detail(open_ledger(), model, number)})


@router.get("/models/{model:path}/versions/{number}/registry")
def ask_registry(access: AccessDep, model: str, number: int) -> JSONResponse:
    """Say what MLflow has of a version: the page does not wait for it."""
    access.require(model)
    from airflow_mlops.engine.registry.lookup import find_version
    from airflow_mlops.hooks.mlflow import MLflowHook

    hook = MLflowHook()
    found = find_version(hook.get_conn(), model, str(number))
    told = {"aliases": list(found.aliases), "url": hook.version_url(model, str(number)), "run": bool(found.run_id)}
    return JSONResponse(told, headers=HEADERS)


@router.get("/models/{model:path}/data/{dataset:path}")
def show_dataset(
    request: Request, access: AccessDep, session: SessionDep, model: str, dataset: str, *, period: str = ""
) -> HTMLResponse:
    """Show a dataset that a model is trained on: its partitions, what is excluded, how its columns are distributed."""
    from airflow_mlops.engine.data.exclusions import exclusions

    ledger, row = _row(access, model)
    names = _datasets(row, session)
    if dataset not in names:
        raise DataError(
            f"{model} is not trained on a dataset {dataset!r}.{did_you_mean(dataset, names)}",
            hint=f"Datasets: {', '.join(names) or 'none is recorded'}.",
        )
    may, shown = actions(access, row), _calendar(ledger, row, dataset, period, session)
    told = {
        "row": row,
        "dataset": dataset,
        "calendar": shown,
        "backfills": [may["backfill"]] if "backfill" in may else [],
        "assets": access.may_change_assets(),
        "no_assets": _NO_ASSETS,
        "exclusions": exclusions(ledger, dataset),
        "profiles": profiles_of(ledger, row, shown),
    }
    return page(request, "dataset.html", told)


@router.get("/models/{model:path}/features/{view}")
def show_view(request: Request, access: AccessDep, model: str, view: str) -> HTMLResponse:
    """Show how the features of a view are distributed."""
    ledger, row = _row(access, model)
    if view not in row.views:
        raise DataError(
            f"{model} reads no feature view {view!r}.{did_you_mean(view, row.views)}",
            hint=f"Feature views: {', '.join(row.views) or 'none is recorded'}.",
        )
    return page(request, "view.html", {"row": row, "view": view, "profiles": profiles_of_view(ledger, row, view)})


@router.get("/models/{model:path}/curves")
def ask_curves(access: AccessDep, model: str, version: Annotated[list[Number], Query()]) -> JSONResponse:
    """Say how versions were in each epoch, as MLflow has it; of which it has nothing, why."""
    access.require(model)
    from airflow_mlops.engine.registry.curves import curves
    from airflow_mlops.hooks.mlflow import MLflowHook

    registry = MLflowHook().get_conn(lookups_only=True)
    told: dict[str, dict[int, Mapping[int, float]]] = {}
    problems = {}
    for number in version[:_SIDE_BY_SIDE]:
        try:
            found = curves(registry, model, number)
        except DataError as error:
            problems[number] = f"{error.headline} {error.detail}"
            continue
        if not found:
            problems[number] = "its run in MLflow has no metrics by epoch."
        for name, curve in found.items():
            told.setdefault(name, {})[number] = curve
    return JSONResponse({"curves": told, "problems": problems}, headers=HEADERS)


# After the pages below it: a name may have slashes.
@router.get("/models/{model:path}")
def show_model(
    request: Request,
    access: AccessDep,
    session: SessionDep,
    model: str,
    *,
    page_: Annotated[Number, Query(alias="page")] = 1,
    period: str = "",
) -> HTMLResponse:
    """Show a model: what serves, what happened, its versions and partitions."""
    ledger, row = _row(access, model)
    datasets = _datasets(row, session)
    listed, line, may = versions(ledger, model, page_), timeline(ledger, model, datasets), actions(access, row)
    told = {
        "row": row,
        "dags": access.of(model),
        "actions": [one for one in may.values() if one.name not in ("deploy", "backfill")],
        "backfills": [may["backfill"]] if "backfill" in may else [],
        "deploy": may.get("deploy"),
        "assets": access.may_change_assets(),
        "no_assets": _NO_ASSETS,
        "line": line,
        "drawing": drawn(line, f"{_root(request)}/models/{_quoted(model)}"),
        "versions": listed,
        "metrics": _metrics(listed),
        "number": page_,
        "pages": -(-count(ledger, model) // PAGE),
        "calendars": [one for name in datasets if (one := _calendar(ledger, row, name, period, session))],
        "access": access,
        "training": _training(ledger, model, access),
        "why": _why(ledger, model),
        "cost": cost_of(ledger, model),
    }
    return page(request, "model.html", told)


@router.get("/tab", dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.RUN))])
def show_tab(request: Request, access: AccessDep, session: SessionDep, dag_id: str, run_id: str = "") -> HTMLResponse:
    """Show what a DAG, or one of its runs, has to do with its model."""
    model, _, stage = dag_id.rpartition(".")
    told: dict[str, object] = {"dag_id": dag_id, "model": model, "row": None, "run": None, "found": None, "key": ""}
    if not model or stage not in STAGES or dag_id not in access.dags:
        return page(request, "tab.html", {**told, "model": ""})
    access.require(model)
    ledger = open_ledger()
    told["row"] = row = rows(ledger, [model])[0] if model in models(ledger) else None
    run = run_of(session, dag_id, run_id) if run_id else None
    if run is not None:
        datasets = _datasets(row, session) if row is not None else []
        key = run.partition_key or ""
        found = of_run(ledger, model, f"{dag_id} {run_id}", datasets, key) if row else RunFacts((), None, ())
        told |= {"run": run, "key": key, "found": found}
    return page(request, "tab.html", told)


def _row(access: Access, model: str) -> tuple[Ledger, ModelRow]:
    """Return the ledger and the row of a model that the user may see.

    :raises DataError: when there is no such model, with the nearest name that the user may see.
    """
    access.require(model)
    ledger = open_ledger()
    known = access.models(models(ledger))
    if model not in known:
        raise DataError(
            f"There is no model {model!r}.{did_you_mean(model, known)}",
            detail="neither a DAG nor the ledger has it",
            hint="The page Models lists those that there are.",
        )
    return ledger, rows(ledger, [model])[0]


def _datasets(row: ModelRow, session: Session) -> list[str]:
    """Return what a model is trained on, and what it will be."""
    names = [one.dataset for one in row.sources]
    return [*names, *(name for name in sealed_by(session, f"{row.model}.features") if name not in names)]


def _calendar(ledger: Ledger, row: ModelRow, dataset: str, period: str, session: Session) -> Calendar | None:
    seen = worked_on(session, f"{row.model}.features", dataset, period)
    return calendar(ledger, dataset, row.online, period, computed=_computed(row), worked_on=seen)


def _computed(row: ModelRow) -> set[str]:
    """Return the keys of which all feature views of a model are computed, where this machine sees the home folder."""
    from airflow_mlops.engine.features.project.schema import feature_file
    from airflow_mlops.operators.base import open_home

    try:
        folders = [feature_file(open_home(), view, "*").parent for view in row.views]
    except MlopsError:
        return set()
    keys = [{file.stem for file in folder.glob("[!.]*.parquet")} for folder in folders]
    return set.intersection(*keys) if keys else set()


def _metrics(listed: list[Version]) -> list[str]:
    return list(dict.fromkeys(name for one in listed for name in one.metrics))[:_METRICS]


def _training(ledger: Ledger, model: str, access: Access) -> dict[str, object] | None:
    """Return how far a training is that goes on: one that stopped early, or failed, leaves rows for ever."""
    from airflow_mlops.operators.training_progress import POINTER

    pointer = ledger.pointer(POINTER.format(model=model))
    told = {} if pointer is None else pointer.value
    goes_on = told.get("examples_left") and f"{told.get('dag_id')} {told.get('run_id')}" in access.running
    return told if goes_on else None


def _why(ledger: Ledger, model: str) -> list[str]:
    from airflow_mlops.engine.retraining.why import why

    return list(why(ledger, model))


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", ""))


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")
