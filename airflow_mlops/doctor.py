"""Is an installation whole? Each check asks about one thing, whatever the others find, and says how to mend it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.exceptions import ConfigError, MlopsError, TransientError

if TYPE_CHECKING:
    from airflow_mlops.stack.airflow_api import AirflowApi

OK, WRONG, UNKNOWN = "ok", "wrong", "could not be asked"

HOSTS = Path("run") / "hosts"
"""Below the home folder: a file for each machine that was started with this folder as its home."""

_LITTLE_SPACE = 0.05
_VISIBILITY_TIMEOUT = 86_400
"""Of a broker where nobody has said, in seconds: the Celery provider's default."""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    :param state: ``ok``, ``wrong`` or ``could not be asked``.
    :param words: What was seen.
    :param hint: How to mend it; nothing when all is well.
    :param cause: What is behind it, which other checks may meet too.
    """

    state: str
    words: str
    hint: str = ""
    cause: str = ""


class Installation:
    """What is looked at, from the machine that this runs on.

    :param home: Home folder or its URL; empty: option ``[mlops] home``.
    :param airflow_url: Address of Airflow's API server; empty: as Airflow's configuration here says.
    :param login: User and password for it; None: those that the configuration here says, or nobody.
    """

    def __init__(self, home: str = "", airflow_url: str = "", login: tuple[str, str] | None = None) -> None:
        # As Airflow's own `airflow connections` does: without it, connections in Airflow's database are not looked for.
        os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
        self._home, self._airflow_url, self._login = home, airflow_url, login

    @cached_property
    def home(self) -> Path:
        """The home folder as this machine has it."""
        from airflow_mlops.operators.base import open_home

        return open_home(self._home or None)

    @property
    def home_is_a_folder(self) -> bool:
        """Whether it is a folder, not on object storage."""
        from airflow_mlops.operators.base import default_home

        return "://" not in (self._home or default_home())

    @cached_property
    def airflow(self) -> AirflowApi:
        """Airflow's API."""
        from airflow_mlops.stack.airflow_api import AirflowApi

        said = self._conf("core", "execution_api_server_url").removesuffix("/").removesuffix("/execution")
        url = self._airflow_url or said or self._conf("api", "base_url") or "http://localhost:8080"
        return AirflowApi(url.rstrip("/"), self._login or self._login_said_here())

    @cached_property
    def executor(self) -> str:
        """Class name of the executor, as the configuration here says."""
        return self._conf("core", "executor").rpartition(".")[2]

    @cached_property
    def celery(self) -> Any:
        """Celery's application, which knows no task but can ask workers."""
        from celery import Celery

        once = {"max_retries": 1, "interval_start": 0, "interval_step": 0}
        return Celery(broker=self._conf("celery", "broker_url"), broker_transport_options=once)

    @cached_property
    def tasks(self) -> list[tuple[str, dict[str, Any]]]:
        """DAG and task of all that Airflow has parsed."""
        return [(dag, task) for dag in sorted(self.airflow.dag_ids()) for task in self.airflow.dag_tasks(dag)]

    def _login_said_here(self) -> tuple[str, str] | None:
        import json

        if self._conf("core", "simple_auth_manager_all_admins").lower() == "true":
            return None
        file = Path(self._conf("core", "simple_auth_manager_passwords_file") or "-")
        if not os.access(file, os.R_OK):
            return None
        passwords = json.loads(file.read_text())
        users = [user.split(":")[0] for user in self._conf("core", "simple_auth_manager_users").split(",")]
        return next(((user, passwords[user]) for user in users if user in passwords), None)

    @staticmethod
    def _conf(section: str, key: str) -> str:
        from airflow.configuration import conf

        return str(conf.get(section, key, fallback="") or "")


# --- checks -----------------------------------------------------------------------------------------------------


def versions(_: Installation) -> Iterator[Finding]:
    """Hold every package that is installed against what airflow-mlops wants of it."""
    import platform

    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    about = metadata.metadata("airflow-mlops")
    python = platform.python_version()
    if python not in SpecifierSet(about["Requires-Python"]):
        yield Finding(WRONG, f"Python {python} is none of {about['Requires-Python']}", "Install one of these.")
    extras = about.get_all("Provides-Extra") or []
    wanted: dict[str, SpecifierSet] = defaultdict(SpecifierSet)
    for requirement in map(Requirement, about.get_all("Requires-Dist") or []):
        marker = requirement.marker
        if requirement.name != "airflow-mlops" and (
            marker is None or any(marker.evaluate({"extra": extra}) for extra in ["", *extras])
        ):
            wanted[requirement.name] &= requirement.specifier
    held = 0
    for name, bounds in wanted.items():
        try:
            there = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # of an extra that nobody installed
        held += 1
        if not bounds.contains(there, prereleases=True):
            yield Finding(WRONG, f"{name} {there} is none of {name}{bounds}", f'pip install "{name}{bounds}"')
    yield Finding(OK, f"airflow-mlops {about['Version']} on Python {python}; {held} packages held against their bounds")


def connections(place: Installation) -> Iterator[Finding]:
    """Press the Test button of the connections that pipelines use unless told otherwise."""
    from airflow_mlops.hooks.feast import FeastHook
    from airflow_mlops.hooks.mlflow import MLflowHook

    yield from _asked(MLflowHook().check)
    feast = FeastHook()
    try:
        _ = feast.connection  # asked first: a folder of DAGs may do without features
    except ConfigError as error:
        if _uses_feast(place):
            yield _told(error)
        else:
            yield Finding(OK, f"there is no {feast.conn_id}, and no DAG of ours uses Feast")
        return
    yield from _asked(lambda: feast.check(place.home))


def _uses_feast(place: Installation) -> bool:
    """Return whether a task of ours does, or may: Airflow's own troubles are told further below."""
    try:
        return any("Feast" in task["operator_name"] for _, task in place.tasks)
    except MlopsError:
        return True


def ledger(_: Installation) -> Iterator[Finding]:
    """Connect to the ledger, and look at the version of its tables."""
    from airflow_mlops.hooks.ledger import LedgerHook

    yield from _asked(LedgerHook().check)


def server(_: Installation) -> Iterator[Finding]:
    """Ask the model server, and look at what it shares with workers."""
    from airflow_mlops.hooks.tf_serving import TFServingHook

    hook = TFServingHook()
    yield from _asked(hook.check)
    for what, path in (("model store", hook.model_store), ("model config file", hook._path("model_config_file"))):
        if not path.exists():
            yield Finding(
                WRONG,
                f"the {what} {path} is not there",
                "Mount it here under the path that the server has, or correct connection tf_serving_default.",
            )
        elif not os.access(path, os.W_OK):
            yield Finding(WRONG, f"the {what} {path} cannot be written by {_me()}", f"chown it: {_owner(path)}.")
        else:
            yield Finding(OK, f"the {what} {path} can be written")


def home(place: Installation) -> Iterator[Finding]:
    """Write to the home folder, and look at its space."""
    folder = place.home
    if place.home_is_a_folder and not folder.is_dir():
        raise ConfigError(
            "There is no home folder.", detail=str(folder), hint="Make it, or mount the volume that all workers share."
        )
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"airflow-mlops doctor")
    except OSError as error:
        raise ConfigError(
            "The home folder cannot be written.",
            detail=f"{folder}: {error.strerror}; {_owner(folder)}, this is {_me()}",
            hint="Give it to the user of the workers, with what is in it.",
        ) from None
    usage = shutil.disk_usage(folder)
    free = f"{usage.free / 2**30:.0f} GiB of {usage.total / 2**30:.0f} are free"
    if usage.free < _LITTLE_SPACE * usage.total:
        yield Finding(WRONG, f"{folder}: only {free}", "Remove what is no longer needed: airflow-mlops sweep")
    else:
        yield Finding(OK, f"{folder} can be written; {free}")


def permissions(place: Installation) -> Iterator[Finding]:
    """Look for what is in the home folder and belongs to somebody else."""
    foreign = [path for path in sorted(place.home.iterdir()) if path.is_dir() and not os.access(path, os.W_OK)]
    for path in foreign:
        yield Finding(
            WRONG,
            f"{path} cannot be written by {_me()}: {_owner(path)}",
            "Run all workers as one user, or give them one group that may write.",
        )
    if not foreign:
        yield Finding(OK, f"{_me()} can write all folders of the home")


def shared(place: Installation) -> Iterator[Finding]:
    """Find out whether the workers have the home folder that this machine has."""
    if not place.home_is_a_folder:
        yield Finding(OK, "the home is on object storage, which all share")
        return
    if not place.executor.startswith("Celery"):
        local = place.executor == "LocalExecutor"
        yield Finding(
            OK if local else UNKNOWN, f"{place.executor}: {'all is on one machine' if local else 'not known'}"
        )
        return
    marks = {path.name for path in (place.home / HOSTS).glob("*")}
    workers = sorted(_workers(place))
    if not workers:
        yield Finding(UNKNOWN, "no Celery worker answers", "Start one: airflow celery worker")
    for worker in workers:
        host = worker.partition("@")[2]
        if host in marks:
            yield Finding(OK, f"worker {host} has this home")
        elif not marks:
            yield Finding(
                UNKNOWN,
                f"whether worker {host} has this home",
                f"Let each worker leave its mark as it starts: touch $AIRFLOW__MLOPS__HOME/{HOSTS}/$(hostname)",
            )
        else:
            yield Finding(
                WRONG,
                f"worker {host} was started with another home than {place.home} here",
                "Mount one volume as the home of all workers and of the API server, then start it again.",
            )


def airflow(place: Installation) -> Iterator[Finding]:
    """Ask Airflow how its components are, and which DAG files it cannot read."""
    for name, report in place.airflow.health().items():
        if report["status"] is not None:  # of a component that is not there
            healthy = report["status"] == "healthy"
            yield Finding(
                OK if healthy else WRONG,
                f"{name} is {report['status']}",
                "" if healthy else "See its log, and start it again.",
            )
    for file, trace in place.airflow.import_errors().items():
        last = trace.strip().splitlines()[-1:] or [""]
        yield Finding(WRONG, f"{file} cannot be imported: {last[0]}", "Correct the file; it is parsed again.")


def pools(place: Installation) -> Iterator[Finding]:
    """Look whether each pool that a task waits for is there, and has slots enough."""
    there = place.airflow.pools()
    used = _by(place.tasks, "pool")
    for pool, where in used.items():
        if pool not in there:
            yield Finding(WRONG, f"there is no pool {pool!r}: {where} never starts", f"airflow pools set {pool} 1 ''")
            continue
        slots = there[pool]
        asked = {f"{dag}.{task['task_id']}": _slots(task) for dag, task in place.tasks if task["pool"] == pool}
        large = max(asked, key=lambda name: asked[name])
        most = asked[large]
        if 0 <= slots < most:
            words = f"pool {pool!r} has {slots} slots, and {large} takes {most}: it never starts"
            yield Finding(WRONG, words, f"airflow pools set {pool} {most} ''")
        else:
            yield Finding(OK, f"pool {pool!r} has {slots} slots")
    if not used:
        yield Finding(UNKNOWN, "no DAG is parsed yet, so no task waits for a pool")


def queues(place: Installation) -> Iterator[Finding]:
    """Look whether somebody works on each queue that a task goes to."""
    if not place.executor.startswith("Celery"):
        yield Finding(OK, f"{place.executor} has no queues")
        return
    listened = {queue for queues in _workers(place).values() for queue in queues}
    for queue, where in _by(place.tasks, "queue").items():
        if queue in listened:
            yield Finding(OK, f"queue {queue!r} is worked on")
        else:
            yield Finding(
                WRONG,
                f"no worker listens on queue {queue!r}: {where} never starts",
                f"Start one: airflow celery worker --queues={queue}",
            )
    yield from _handed_out_twice(place)


def _handed_out_twice(place: Installation) -> Iterator[Finding]:
    """Find the task that may take longer than the broker waits before it gives it to another worker as well."""
    waits = int(float(place._conf("celery_broker_transport_options", "visibility_timeout") or _VISIBILITY_TIMEOUT))
    lasting = {f"{dag}.{task['task_id']}": _seconds(task) for dag, task in place.tasks}
    if not lasting or not place._conf("celery", "broker_url").startswith(("redis", "sentinel", "sqs")):
        return
    longest = max(lasting, key=lambda name: lasting[name])
    if lasting[longest] >= waits:
        yield Finding(
            WRONG,
            f"{longest} may take {lasting[longest]} s, and after {waits} s the broker hands it to another worker too",
            f"AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT={2 * lasting[longest]}, everywhere",
        )


CHECKS: Mapping[str, Callable[[Installation], Iterator[Finding]]] = {
    "versions": versions,
    "connections": connections,
    "ledger": ledger,
    "server": server,
    "home": home,
    "shared home": shared,
    "permissions": permissions,
    "airflow": airflow,
    "pools": pools,
    "queues": queues,
}


def examine(place: Installation) -> Iterator[tuple[str, Finding]]:
    """Yield what each check finds, with its name. None of them can keep the others from being asked."""
    told: dict[str, str] = {}
    for name, check in CHECKS.items():
        for finding in dict.fromkeys(_safely(check, place)):  # what keeps two questions from being asked, once
            before = told.setdefault(finding.cause, name) if finding.cause else name
            yield name, finding if before == name else Finding(UNKNOWN, f"see {before}, above")


def _safely(check: Callable[[Installation], Iterator[Finding]], place: Installation) -> Iterator[Finding]:
    try:
        yield from check(place)
    except MlopsError as error:
        yield _told(error)
    except Exception as error:  # a broken installation breaks in ways that nobody foresaw
        yield Finding(UNKNOWN, f"{type(error).__name__}: {error}", "Mend what is wrong above, then ask again.")


def _asked(check: Callable[[], str]) -> Iterator[Finding]:
    try:
        yield Finding(OK, check())
    except MlopsError as error:
        yield _told(error)


def _told(error: MlopsError) -> Finding:
    return Finding(WRONG, f"{error.headline} {error.detail}".strip(), error.hint, cause=error.headline)


def _workers(place: Installation) -> dict[str, list[str]]:
    """Return the queues of each Celery worker that answers."""
    from kombu.exceptions import OperationalError

    try:
        answers = place.celery.control.inspect(timeout=3).active_queues() or {}
    except OperationalError as error:
        raise TransientError(
            "Celery's broker does not answer.",
            detail=str(error),
            hint="See whether it runs, and option [celery] broker_url: it must be the same everywhere.",
        ) from None
    return {worker: [queue["name"] for queue in queues] for worker, queues in answers.items()}


def _by(tasks: list[tuple[str, dict[str, Any]]], key: str) -> dict[str, str]:
    """Return one task, by name, of each pool or queue."""
    return {task[key]: f"{dag}.{task['task_id']}" for dag, task in tasks}


def _slots(task: Mapping[str, Any]) -> int:
    return int(task.get("pool_slots") or 1)


def _seconds(task: Mapping[str, Any]) -> int:
    """Return how long a task may take; 0: nobody said."""
    most = task.get("execution_timeout") or {}
    return int(timedelta(**{unit: most.get(unit, 0) for unit in ("days", "seconds")}).total_seconds())


def _me() -> str:
    return f"user {os.getuid()}"


def _owner(path: Path) -> str:
    return f"it belongs to user {path.stat().st_uid}"
