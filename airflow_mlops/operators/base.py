"""Base of the operators: where files live, and how an error reaches the user."""

from __future__ import annotations

import hashlib
import os
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from airflow.sdk import BaseOperator, conf
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException, AirflowSkipException

from airflow_mlops.exceptions import ConfigError, MlopsError, TransientError, did_you_mean

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath

    from airflow_mlops.contracts import Halt
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.ledger import Ledger


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Let an error that no retry can cure fail the task at once, with its own words as the last log lines."""
    try:
        yield
    except MlopsError as error:
        # Without the library's own exception behind it: these words are to be the last in the log, and they say it.
        if error.retryable:
            raise error from None
        raise AirflowFailException(str(error)) from None


def default_home() -> str:
    """Return where this package keeps its files: option ``[mlops] home``, a folder or a prefix on object storage.

    :raises ConfigError: when the option is not set.
    """
    home = conf.get("mlops", "home", fallback="")
    if not home:
        raise ConfigError(
            "The folder for partitions, snapshots and models is not configured.",
            detail="option `home` in section [mlops] of the Airflow configuration is empty",
            hint="Set AIRFLOW__MLOPS__HOME to a folder that all workers share or to s3://connection@bucket/prefix, or "
            "pass home= to the operator.",
        )
    return home


def open_home(uri: str | None = None) -> Path:
    """Return the home folder as this machine has it; of one on object storage, the folder that caches it.

    :param uri: A folder, or ``s3://aws_default@bucket/prefix``; default is option ``[mlops] home``.
    :raises ConfigError: when there is none, or no such connection.
    """
    uri = uri or default_home()
    if "://" not in uri:
        return Path(uri)
    from airflow_mlops.engine.data.shared import is_shared, share

    cache = cache_of(uri)
    if not is_shared(cache):
        share(cache, cast("ObjectStoragePath", path_of(uri)))
    return cache


def cache_of(uri: str) -> Path:
    """Return the folder that caches a home on object storage: by its hash, below option ``[mlops] cache``.

    It is the same on all machines that have the same option: results of tasks name paths in it.
    """
    folder = conf.get("mlops", "cache", fallback="") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "airflow-mlops", "homes"
    )
    return Path(folder).absolute() / hashlib.sha256(uri.rstrip("/").encode()).hexdigest()[:16]


def path_of(uri: str) -> Path | ObjectStoragePath:
    """Return a path on this machine, or one on object storage such as ``s3://aws_default@bucket/prefix``.

    The part before ``@`` is the Airflow connection that opens the storage. It is looked up, because Airflow would take
    whatever credentials the machine has in its place: not for parse time.

    :raises ConfigError: when there is no such connection, or nothing here opens such a storage.
    """
    if "://" not in uri:
        return Path(uri)
    from airflow.sdk import BaseHook, ObjectStoragePath

    try:
        path = ObjectStoragePath(uri)
        if path.conn_id is not None:
            BaseHook.get_connection(path.conn_id)
        _ = path.fs  # opened now: otherwise the first to use it learns that nothing can
    except AirflowNotFoundException:
        raise ConfigError(
            f"There is no Airflow connection {path.conn_id!r}.",
            detail=f"{uri} is opened by the connection before the '@'",
            hint=f"Add one under Admin → Connections, or set AIRFLOW_CONN_{str(path.conn_id).upper()}.",
        ) from None
    except (ValueError, ImportError) as error:
        raise ConfigError(
            "This storage cannot be opened here.",
            detail=f"{uri}: {error}",
            hint="Install the Airflow provider of this storage (s3: amazon, gs: google, abfs: microsoft-azure).",
        ) from None
    return path


def beneath(home: Path, uri: str) -> Path | ObjectStoragePath:
    """Return where a path points, as :func:`path_of` does; a relative one starts at the home, wherever that is.

    What other tasks made below a home on object storage is fetched.
    """
    path = path_of(uri)
    if not isinstance(path, Path):
        return path
    from airflow_mlops.engine.data.shared import fetch, origin

    if path.is_absolute():
        fetch(path)
        return path
    return cast("Path | ObjectStoragePath", origin(home)) / uri


def partition_store(home: Path, ledger: Ledger | None = None) -> PartitionStore:
    """Return the store of sealed partitions: option ``[mlops] partitions``, else ``partitions`` in the home, also in
    one on object storage.

    :param home: The home folder.
    :param ledger: Decides between concurrent writers; readers need none.
    """
    from airflow_mlops.engine.data.partitions import PartitionStore

    configured = conf.get("mlops", "partitions", fallback="")
    return PartitionStore(path_of(configured), ledger) if configured else PartitionStore.under(home, ledger)


def require(value: str | None, name: str, hint: str) -> str:
    """Return a rendered value, or say that it came out empty."""
    if value is None or value in ("", "None"):
        raise ConfigError(f"{name} is empty after rendering.", detail=f"{name}={value!r}", hint=hint)
    return value


def said(value: object) -> str:
    """Return a rendered value as text; nothing when a form left it empty."""
    text = "" if value is None else str(value).strip()
    return "" if text == "None" else text


def check_form(task: BaseOperator, context: Context, model: str) -> None:
    """Refuse what a trigger of a pipeline's own DAG says beside the fields of its form.

    Airflow takes it, and nothing reads it: a mistyped field would be left out without a word.

    :raises ConfigError: then.
    """
    asked = getattr(context.get("dag_run"), "conf", None) or {}
    if not asked or not task.dag.dag_id.startswith(f"{model}.") or "mlops" not in task.dag.tags:
        return
    known = [*task.dag.params, "request"]  # the request is what <model>.retrain gives a training
    if unknown := next((name for name in asked if name not in known), None):
        raise ConfigError(
            f"The form of {task.dag.dag_id} has no field {unknown!r}.{did_you_mean(unknown, known)}",
            detail=f"conf={asked!r}",
            hint=f"Its fields are: {', '.join(task.dag.params)}. Nothing was done.",
        )


def positive(value: object, name: str) -> float | None:
    """Return a rendered value as a number above 0; None when a form left it empty.

    :param name: Of the argument.
    :raises ConfigError: when it is none.
    """
    if not said(value):
        return None
    try:
        number = float(said(value))
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ConfigError(
            f"{name}={value!r} is no number above 0.",
            detail="after rendering",
            hint="Give a number such as 2.5, or leave it out.",
        )
    return number


def heads_of(heads: Mapping[str, str] | None) -> dict[str, str]:
    """Return further labels as they are given to an operator: column → problem type.

    :raises ConfigError: when they are not said so.
    """
    given = heads or {}
    if not isinstance(given, Mapping) or not all(isinstance(one, str) for one in (*given, *given.values())):
        raise ConfigError(
            f"heads={heads!r} is no dictionary of column and problem type.",
            hint='Write heads={"refund": "regression"}; or heads={"refund": ""} where the type follows from the '
            "column.",
        )
    return dict(given)


def halt_of(model: str, ledger_conn_id: str) -> Halt | None:
    """Return the halt of a model; None when there is none, or no connection to a ledger in which it could be.

    :raises TransientError: when the ledger does not answer.
    """
    from airflow_mlops.engine.halts import halted
    from airflow_mlops.hooks.ledger import LedgerHook

    try:
        ledger = LedgerHook(ledger_conn_id).get_conn()
    except (ConfigError, AirflowNotFoundException):
        return None  # whoever needs it says so
    return halted(ledger, model)


def required_key(key: str | None) -> str:
    """Return a rendered partition key.

    :raises ConfigError: when the run has none.
    """
    if key in (None, "", "None"):
        raise ConfigError(
            "This run has no partition key.",
            detail=f"key={key!r} after rendering",
            hint='Trigger the DAG with one, {"partition_key": "2013-01-15"}, or let its timetable run it.',
        )
    return str(key)


def owner_of(task: BaseOperator) -> str:
    """Return who answers for a task; nobody has the owner that Airflow gives to all."""
    return "" if task.owner == conf.get("operators", "default_owner", fallback="airflow") else task.owner


def run_tags(context: Context, task: BaseOperator) -> dict[str, str]:
    """Return the tags that lead from an MLflow run to its Airflow run, to who asked for it and who answers for it."""
    from airflow_mlops.engine.registry.registry import OWNER

    ti, owner = context["ti"], owner_of(task)
    user = getattr(context.get("dag_run"), "triggering_user_name", None) or owner or "airflow"
    told = {"airflow.dag_id": ti.dag_id, "airflow.run_id": ti.run_id, "mlflow.user": user}
    return {**told, **({OWNER: owner} if owner else {})}


def whole_version(version: int | str) -> int:
    """Return a rendered version as a number.

    :raises ConfigError: when it is not a positive whole number.
    """
    text = str(version).strip()
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(
            f"{version!r} is not a version of a model.",
            detail=f"version={version!r} after rendering",
            hint="It must be a whole number from 1 on. Did the task whose XCom it comes from succeed?",
        )
    return int(text)


def version_or_alias(version: int | str) -> str:
    """Return a rendered version as the registry is asked for it: a number in digits, or an alias.

    :raises ConfigError: when it came out empty, or the number is not from 1 on.
    """
    text = require(said(version), "version", "Give a number or an alias. Did the task whose XCom it is succeed?")
    return str(whole_version(text)) if text.isdecimal() else text


@cache
def doc_of(cls: type) -> str:
    """Return what a class does, as a task's page shows it: what its docstring begins with, in Markdown."""
    text = (cls.__doc__ or "").partition("\n\n")[0].replace("``", "`").replace("\n   ", "\n")
    return re.sub(r":\w+:`[~\w.]*?(\w+)`", r"`\1`", text) if ":`" in text else text


class MlopsOperator(BaseOperator):
    """An operator that renders, calls one engine function, and pushes one small JSON manifest.

    Subclasses implement :meth:`perform`. Constructors only assign; rendered values are checked at the head of
    :meth:`perform`.

    :param home: Folder for partitions, snapshots and models, or ``s3://connection@bucket/prefix``; default is option
        ``[mlops] home``.
    """

    template_fields: Sequence[str] = ()
    ui_color = "#e8f0fe"
    stopped_by_halt: Literal["", "surely", "if known"] = ""
    """Whether this task is skipped while its model is halted; the others only say so in their logs. ``surely`` waits
    for a ledger that does not answer, ``if known`` goes on without it."""

    def __init__(self, *, home: str | None = None, **kwargs: Any) -> None:
        # Each key of the manifest is an XCom of its own too, so that `task.output["key"]` can be handed on.
        super().__init__(**{"multiple_outputs": True, "doc_md": doc_of(type(self)), **kwargs})
        self.home = home

    @property
    def home_path(self) -> Path:
        """The home folder on this machine, from the argument or from the configuration."""
        return open_home(self.home)

    def execute(self, context: Context) -> Any:
        """Run :meth:`perform`; errors that a retry cannot cure fail the task at once."""
        with failing_clearly():
            self._mind_halt(context)
            if self.home or conf.get("mlops", "home", fallback=""):
                open_home(self.home)  # paths in its cache may come from other tasks
            return self.perform(context)

    def _mind_halt(self, context: Context) -> None:
        """Remind whoever reads the log that the model is halted; end here if this task may not go on then."""
        model, ledger_conn_id = getattr(self, "model", None), getattr(self, "ledger_conn_id", None)
        if not model or not ledger_conn_id:
            return
        try:
            halt = halt_of(model, ledger_conn_id)
        except TransientError:
            if self.stopped_by_halt == "surely":
                raise
            return
        if halt is None:
            return
        if self.stopped_by_halt:
            held = f"{halt}. Once it is resumed, clear this task: what was done before it is kept."
            context["ti"].xcom_push("held", held)
            raise AirflowSkipException(held)
        self.log.warning("%s. This task goes on.", halt)

    def partition_store(self, ledger: Ledger | None = None) -> PartitionStore:
        """The store of sealed partitions."""
        return partition_store(self.home_path, ledger)

    @abstractmethod
    def perform(self, context: Context) -> Any:
        """Do the work and return the manifest (JSON-able, small) that becomes the XCom."""

    @property
    def code_path(self) -> str:
        """The folder of the DAG file: user code beside it is imported from there."""
        return str(Path(self.dag.fileloc).parent)
