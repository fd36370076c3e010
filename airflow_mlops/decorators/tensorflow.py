"""``@task.tensorflow``: a function of one's own DAG file in a process in which TensorFlow can be imported."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.decorator import DecoratedOperator, task_decorator_factory
from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.operators.base import MlopsOperator
from airflow_mlops.resources import GPU, gpu_of, where_of

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.bases.decorator import TaskDecorator

    from airflow_mlops.engine.functions.run import FunctionProcess

_NAME = "tensorflow"


class _TensorFlowDecoratedOperator(DecoratedOperator, MlopsOperator):
    """Call a function in a fresh child process that dies with the task.

    :param python_callable: The function.
    :param op_args: Its arguments: numbers, texts, lists, dicts, or paths.
    :param op_kwargs: Likewise, by name. Of Airflow's context it is given what it names: ``ds``, ``params``.
    :param timeout: Seconds until it is stopped.
    :param gpu: GPUs that it takes, such as ``GPU(1)``. By default one on the queue ``gpu``, and none elsewhere.
    :param python: Another Python that runs it, such as ``/opt/gpu/bin/python``; default is that of the worker.
    """

    custom_operator_name = f"@task.{_NAME}"
    template_fields = (*DecoratedOperator.template_fields, "python")

    _process: FunctionProcess | None = None

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        timeout: float = 2 * 3600,
        gpu: GPU | None = None,
        python: str = "",
        **kwargs: Any,
    ) -> None:
        _check(python_callable, self.custom_operator_name)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
            raise ConfigError(
                f"timeout={timeout!r} is not a number of seconds.",
                detail=f"{self.custom_operator_name} of {python_callable.__name__}()",
                hint="Write a number above 0, such as timeout=3600.",
            )
        super().__init__(python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, **kwargs)
        self.timeout = timeout
        self.gpu = gpu
        self.python = python

    def perform(self, context: Context) -> Any:
        """Call the function and return what it returned."""
        from airflow_mlops.engine.functions.run import FunctionProcess, SkippedError

        later = list(inspect.signature(self.python_callable).parameters)[len(self.op_args) :]
        known: Mapping[str, Any] = {**context}
        kwargs = {**{name: known[name] for name in later if name in known}, **self.op_kwargs}
        self._process = FunctionProcess(
            self.python_callable,
            decorator=_NAME,
            python=self.python,
            log=self.log,
            gpu=gpu_of(self),
            task=f"{self.dag_id}.{self.task_id}",
        )
        try:
            return self._process.call(list(self.op_args), kwargs, self.timeout, _uri)
        except SkippedError as error:
            raise AirflowSkipException(str(error)) from None

    def on_kill(self) -> None:
        """End the child process: a cleared or cancelled task leaves nothing running."""
        if self._process is not None:
            self._process.kill()


def _check(function: Callable[..., Any], decorator: str) -> None:
    """Refuse what cannot be called from its source alone. Reads no file: this is at parse time.

    :raises ConfigError: for a lambda, a generator, a coroutine, what is no function, or uses a variable of a function
        around it.
    """
    original = inspect.unwrap(function)
    name = getattr(original, "__name__", type(original).__name__)
    if not inspect.isfunction(original) or name == "<lambda>":
        raise ConfigError(
            f"{decorator} takes a function that has a name.",
            detail=f"{name} is a {type(original).__name__}" if name != "<lambda>" else "this one is a lambda",
            hint="Write it with def.",
        )
    if inspect.isgeneratorfunction(original) or inspect.iscoroutinefunction(original):
        raise ConfigError(
            f"{decorator} takes a plain function; {name}() is a generator or a coroutine.",
            hint="Return one result, and call asyncio.run inside it if need be.",
        )
    if outer := original.__code__.co_freevars:
        raise ConfigError(
            f"{name}() uses {outer[0]!r} of the function around it.",
            detail=f"variables of the function around it: {', '.join(outer)}",
            hint="Hand it over as an argument, import it inside, or define it at the top of the file: the function "
            "runs in a process of its own.",
        )


def _uri(value: Any) -> str | None:
    """Return an asset, or a path on object storage, as text."""
    from airflow.sdk import Asset, ObjectStoragePath

    if isinstance(value, Asset):
        return value.uri
    return str(value) if isinstance(value, ObjectStoragePath) else None


def tensorflow_task(
    python_callable: Callable[..., Any] | None = None, multiple_outputs: bool | None = None, **kwargs: Any
) -> TaskDecorator:
    """Run a function of your DAG file in a process of its own, in which TensorFlow can be imported.

    Use it as ``@task.tensorflow``, for TensorFlow in any task: in a worker's own process it hangs.

    The process runs the function and what it names of its file (imports, constants, functions, classes), and none of
    the rest. None of Airflow's variables are in its environment.

    :param python_callable: The function.
    :param multiple_outputs: Whether each key of the dict that it returns is an XCom of its own; as for ``@task``.
    :param kwargs: ``timeout`` in seconds (7200), ``gpu``, ``python`` (the worker's), and whatever a task takes.
    """
    # Queue and pool are said here: of a mapped task, Airflow reads them where there is no operator yet.
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=_TensorFlowDecoratedOperator,
        **{**where_of(kwargs.get("gpu")), **kwargs},
    )
