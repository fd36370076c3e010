"""Tasks of one's own in the place of some of a stage's."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, TaskGroup, XComArg

from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    from airflow_mlops.operators.own_validation import RecordValidationOperator

OwnTask = Callable[..., Any]
"""A function that adds a task, or a group of tasks, and returns it: one decorated by ``@task`` or ``@task_group``; or
one that makes an operator."""


def own_task(add: OwnTask, what: str, after: BaseOperator | None, **given: Any) -> BaseOperator | XComArg | TaskGroup:
    """Add a task of one's own, behind another one if there is one, and return it.

    :param what: What it is to do, in words.
    :param given: What it is called with.
    :raises ConfigError: when it does not take that, or returns no task.
    """
    try:
        signature(getattr(add, "function", add)).bind_partial(**given)
    except TypeError as error:
        raise ConfigError(
            f"What is to {what} takes other arguments.",
            detail=f"{getattr(add, '__name__', add)!r} {error}",
            hint=f"Let it take {' and '.join(given)}.",
        ) from None
    made = add(**given)
    if not isinstance(made, BaseOperator | XComArg | TaskGroup):
        raise ConfigError(
            f"What is to {what} is no task.",
            detail=f"{getattr(add, '__name__', add)!r} returned {made!r}",
            hint="Give a function decorated by @task, or one that makes an operator and returns it.",
        )
    if after is not None:
        after >> made
    return made


def validated_by(add: OwnTask, after: BaseOperator | None = None, **arguments: Any) -> RecordValidationOperator:
    """Add a validation of one's own, and the task that writes down what it was of; return that.

    :param arguments: Of :class:`~airflow_mlops.operators.own_validation.RecordValidationOperator`.
    """
    from airflow_mlops.operators.own_validation import RecordValidationOperator  # only those who use it load it

    checked = own_task(add, "validate", after, data=arguments["data"], key=arguments["key"])
    record = RecordValidationOperator(task_id="record_validation", checked_by=_name(checked), **arguments)
    checked >> record
    return record


def output_of(made: BaseOperator | XComArg | TaskGroup) -> Any:
    """Return what a task of one's own returns.

    :raises ConfigError: when it is a group, of which that is not known.
    """
    if isinstance(made, TaskGroup):
        raise ConfigError(
            "A group of tasks is to train, and which of them has the model is not known.",
            detail=f"group {made.group_id!r}",
            hint="Let its function return the result of the task that has it.",
        )
    return made.output if isinstance(made, BaseOperator) else made


def _name(made: BaseOperator | XComArg | TaskGroup) -> str:
    if isinstance(made, TaskGroup):
        return str(made.group_id)
    task = made if isinstance(made, BaseOperator) else next(iter(made.iter_references()))[0]
    return str(task.task_id)
