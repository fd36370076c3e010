"""Who is told what happened, by Airflow's notifiers: called with what they always get, and a ``notice`` in words.

A template such as ``SlackNotifier(text="{{ notice.headline }} {{ notice.hint }}")`` shows it. Loaded only by
pipelines that notify.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import ConfigError, DataError, GateError, MlopsError

if TYPE_CHECKING:
    from airflow.sdk.definitions.deadline import DeadlineAlert

    from airflow_mlops.pipeline import ModelPipeline

Event = Literal[
    "task_failed", "partition_blocked", "challenger_rejected", "deadline_missed", "pin_ends", "served_too_old"
]
Notify = Callable[..., Any]

_WORDS = re.compile(r"([^\n]+)\n  where: (.*?)(?:\n  fix:   (.*))?", re.DOTALL)

log = logging.getLogger(__name__)


class Notice(TypedDict):
    """What happened, where, and how to fix it."""

    event: Event
    model: str
    owner: str
    headline: str
    detail: str
    hint: str


def tell(notify: Sequence[Notify], notice: Notice, context: Mapping[str, Any]) -> None:
    """Tell everyone. One who cannot be told keeps nobody else from it, and fails nothing.

    Secrets of the connections that the task used are masked, as they are in its log.

    :param context: Of the task.
    """
    from airflow.sdk.log import redact

    shown = redact(notice)
    for notifier in notify:
        try:
            # A copy: a notifier renders its templates in place, once.
            copy.copy(notifier)({**context, "notice": shown})
        except Exception:
            log.exception("%s was not told: %s", _name(notifier), notice["headline"])


# --- failures ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TellOfFailure:
    """An ``on_failure_callback``: called in the task's process, once no retry is left.

    :param refused_as: What it is when the task did its work and refused what it was given.
    """

    model: str
    owner: str
    notify: tuple[Notify, ...]
    refused_as: Event = "task_failed"

    def __call__(self, context: Mapping[str, Any]) -> None:
        """Tell what the task's error says."""
        tell(self.notify, self.notice(context), context)

    def notice(self, context: Mapping[str, Any]) -> Notice:
        """Return the words for a failed task."""
        error = context.get("exception")
        # What no retry can cure is raised as Airflow's own error: the first one has the words apart.
        cause = error if isinstance(error, MlopsError) else getattr(error, "__context__", None)
        words = cause if isinstance(cause, MlopsError) else _read(str(error or ""))
        ti = context.get("task_instance") or context.get("ti")
        task = f"{ti.dag_id}.{ti.task_id}" if ti else "a task"
        where = f"task {task}, run {ti.run_id}" if ti else ""
        said = next(iter(str(error or "").strip().splitlines()), "") or "it ended without an error of its own"
        return Notice(
            event=self.refused_as if isinstance(cause, DataError | GateError) else "task_failed",
            model=self.model,
            owner=self.owner,
            headline=words.headline if words else f"{task} failed: {said}",
            detail="\n".join(filter(None, [where, words.detail if words else ""])),
            hint=(words.hint if words else "") or "See the task's log; clear the task once the cause is gone.",
        )


def _read(text: str) -> MlopsError | None:
    """Return the words of an error of ours that Airflow handed on as text, such as a wait's timeout."""
    found = _WORDS.fullmatch(text)
    return MlopsError(*(part or "" for part in found.groups())) if found else None


def on_failure(pipeline: ModelPipeline, refused_as: Event = "task_failed") -> dict[str, Any]:
    """Return the argument of a task, or of a DAG's defaults, that lets failures be told; empty when nobody is told."""
    if not pipeline.notify:
        return {}
    return {
        "on_failure_callback": TellOfFailure(pipeline.model, pipeline.owner, tuple(pipeline.notify), refused_as),
    }


# --- deadlines --------------------------------------------------------------------------------------------


def deadline_alert(pipeline: ModelPipeline, name: str) -> DeadlineAlert:
    """Return Airflow's own deadline alert for a DAG of the pipeline.

    :raises ConfigError: when a notifier cannot be made again in the triggerer, where a missed deadline is told.
    """
    from airflow.sdk.definitions.callback import AsyncCallback
    from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

    within = pipeline.deadlines[name]  # type: ignore[index]
    notice = Notice(
        event="deadline_missed",
        model=pipeline.model,
        owner=pipeline.owner,
        headline=f"{pipeline.model}.{name} is not done {within} after it was queued.",
        detail="",
        hint="See in its grid which task it is at: one that waits says in its log for what.",
    )
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=parse_duration(within),
        callback=AsyncCallback(
            tell_of_missed_deadline,
            kwargs={"notice": dict(notice), "notifiers": [_recipe(notifier) for notifier in pipeline.notify]},
        ),
    )


async def tell_of_missed_deadline(
    notice: dict[str, Any], notifiers: Sequence[Mapping[str, Any]], context: Mapping[str, Any]
) -> None:
    """Tell everyone that a run is late. Called by the triggerer.

    :param notifiers: How to make them again.
    :param context: Of the run: ``dag_run`` and ``deadline``.
    """
    run = context.get("dag_run", {})
    detail = f"run {run.get('dag_run_id')}, {run.get('state')}, queued at {run.get('queued_at')}"
    whole = {**notice, "detail": detail}
    for recipe in notifiers:
        try:
            await _call(_made(recipe), {**context, "notice": whole})
        except Exception:
            log.exception("%s was not told: %s", recipe["name"], notice["headline"])


async def _call(notifier: Notify, context: dict[str, Any]) -> None:
    from airflow.sdk import BaseNotifier

    if isinstance(notifier, BaseNotifier) and type(notifier).notify is BaseNotifier.notify:
        notifier.context = context  # type: ignore[assignment]
        await notifier
    else:
        await asyncio.to_thread(notifier, context)


def _recipe(notifier: Notify) -> dict[str, Any]:
    """Return by what a notifier can be made again in another process: its class, and what it was constructed with."""
    kind = notifier if inspect.isroutine(notifier) else type(notifier)
    settings: dict[str, Any] | None = None
    if kind is not notifier:
        settings, lost = {}, []
        for name, parameter in inspect.signature(kind).parameters.items():
            if hasattr(notifier, name):
                settings[name] = getattr(notifier, name)
            elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
                lost.append(name)
        if lost or not _is_json(settings):
            raise _unreachable(notifier, f"constructor argument {lost[0]!r} is no attribute" if lost else "not JSON")
    module, file = kind.__module__, getattr(sys.modules[kind.__module__], "__file__", None)
    if module.startswith("unusual_prefix_") or "<" in kind.__qualname__ or file is None:
        raise _unreachable(notifier, "it is defined in the DAG file itself or inside a function")
    levels = module.count(".") + (Path(file).stem == "__init__")
    return {"module": module, "name": kind.__qualname__, "settings": settings, "path": str(Path(file).parents[levels])}


def _made(recipe: Mapping[str, Any]) -> Notify:
    if recipe["path"] not in sys.path:
        sys.path.append(recipe["path"])
    kind: Notify = getattr(importlib.import_module(recipe["module"]), recipe["name"])
    return kind if recipe["settings"] is None else kind(**recipe["settings"])


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _unreachable(notifier: Notify, why: str) -> ConfigError:
    return ConfigError(
        f"{_name(notifier)} cannot be told of missed deadlines.",
        detail=f"the triggerer tells them, and cannot make it again: {why}",
        hint="Define it in a module beside the DAG file or in a package, and keep its constructor's arguments as "
        "attributes of the same names, all of them JSON; or leave deadlines out.",
    )


def _name(notifier: Notify) -> str:
    return getattr(notifier, "__qualname__", type(notifier).__qualname__)
