"""A real installation below one folder: PostgreSQL, Airflow's four components, MLflow, the model server; and a process
that starts again what dies of it.

Every process runs in a session of its own and outlives the command that started it; a state file says which
they are, so that any shell can find and stop them.
"""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from airflow_mlops.engine.devices.nvml import find_gpus
from airflow_mlops.exceptions import ConfigError, TransientError
from airflow_mlops.resources import GPU_QUEUE
from airflow_mlops.stack import postgres, processes
from airflow_mlops.stack.airflow_api import AirflowApi
from airflow_mlops.stack.components import AIRFLOW, COMPONENTS, LISTENS, module_and_flags
from airflow_mlops.stack.console import Console
from airflow_mlops.stack.environment import BACKFILL_POOL, FEAST_POOL, Layout, process_environment
from airflow_mlops.stack.health import HealthCheck
from airflow_mlops.stack.ports import HOST, PURPOSES, Ports, require_free, variable
from airflow_mlops.stack.postgres import Postgres
from airflow_mlops.stack.processes import ProcessRecord, tail
from airflow_mlops.stack.state import State

_PATIENCE = 20.0
"""Seconds that a command waits for another one that changes the stack."""


class Stack:
    """The stack of one home folder.

    :param home: Folder for everything that the stack writes.
    :param ports: Ports to listen on.
    :param dags: Folder with the DAG files.
    :param feature_repo: The Feast repository.
    """

    def __init__(
        self, home: Path, ports: Ports, *, dags: Path, feature_repo: Path, console: Console | None = None
    ) -> None:
        self.layout = Layout(home.resolve())
        self.ports = ports
        self.dags = dags.resolve()
        self.feature_repo = feature_repo.resolve()
        self.console = console or Console()

    # --- what it looks like from outside ------------------------------------------------------------------

    @classmethod
    def started(cls, home: Path) -> Stack | None:
        """Return the stack that was started below ``home`` and not stopped since, dead or alive; None without one."""
        layout = Layout(home)
        state = State.read(layout.state)
        if state is not None:
            return cls(home, state.ports, dags=Path(state.dags), feature_repo=Path(state.feature_repo))
        # A crash may have left the database alone.
        lost = layout.database.is_dir() and postgres.find(layout.database) is not None
        return cls(home, Ports(), dags=Path("dags"), feature_repo=Path("feature_repo")) if lost else None

    @classmethod
    def running(cls, home: Path) -> Stack | None:
        """Return the stack that runs below ``home``, or None when none does."""
        stack = cls.started(home)
        return stack if stack and any(stack.status().values()) else None

    @property
    def airflow_url(self) -> str:
        """Address of the Airflow UI and API."""
        return f"http://{HOST}:{self.ports.airflow}"

    @property
    def mlflow_url(self) -> str:
        """Address of MLflow."""
        return f"http://{HOST}:{self.ports.mlflow}"

    @property
    def serving_url(self) -> str:
        """REST address of the model server."""
        return f"http://{HOST}:{self.ports.serving_rest}"

    @property
    def database(self) -> Postgres:
        """The database server.

        :raises ConfigError: when it does not run.
        """
        database = postgres.find(self.layout.database)
        if database is None:
            raise ConfigError(
                "The stack does not run.", detail=f"home: {self.layout.home}", hint="Start it: airflow-mlops stack up"
            )
        return database

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of the stack's processes; also for a program that works with the stack.

        :raises ConfigError: when the database does not run.
        """
        return process_environment(
            self.layout, self.ports, self.database, dags=self.dags, feature_repo=self.feature_repo
        )

    def status(self) -> dict[str, ProcessRecord | None]:
        """Return each component's record, or None for one that does not run."""
        state = self._state()
        records = {name: state.find(name) for name in COMPONENTS}
        return {name: record if record and record.alive else None for name, record in records.items()}

    @property
    def is_started(self) -> bool:
        """Whether it was started and not stopped since."""
        return self.layout.state.exists()

    def dead(self) -> list[str]:
        """Return the components that do not run, though they were started."""
        processes.reap()
        return [name for name, record in self.status().items() if record is None and name != "watch"]

    def check(self) -> None:
        """Do nothing if all components run, or are started again by the one that watches them.

        :raises TransientError: which one died, with the end of its log.
        """
        dead = self.dead()
        if dead and self.status().get("watch") is None:
            raise self._died(dead[0])

    # --- up -----------------------------------------------------------------------------------------------

    def up(self, timeout: float = 240, database_up: Callable[[], object] = lambda: None) -> bool:
        """Start what does not run and wait until all of it is healthy.

        :param timeout: Seconds until it gives up.
        :param database_up: Called once the database answers and the rest is still on its way.
        :returns: False when everything ran already.
        :raises ConfigError: when a port is taken, the stack runs on other ports or for other folders, or there are no
            DAGs.
        :raises TransientError: when a component dies or does not become healthy in time.
        """
        if not self.dags.is_dir():
            raise ConfigError(
                "There is no folder of DAG files.",
                detail=str(self.dags),
                hint="Start it where `dags/` lies, or pass --dags FOLDER.",
            )
        with self._alone(_PATIENCE):
            missing = [name for name, record in self.status().items() if record is None]
            if missing and self.status().get("watch"):
                self._stop(self._state().of(["watch"]), grace=5)  # until all of it runs
                missing.append("watch")
            if not missing:
                self._require_same()
                return False
            if len(missing) < len(COMPONENTS):
                self._require_same()
                self.console.say(f"restarting {', '.join(missing)}")
            self._stop(self._state().of(missing), grace=5)  # of a dead process, children may live and hold its port
            require_free(self.ports, {port for name in missing for port in LISTENS.get(name, ())})
            try:
                self._start(missing, time.monotonic() + timeout, database_up)
            except BaseException:
                self._stop(self._state().of(missing), grace=10)
                raise
            return True

    def revive(self) -> list[str]:
        """Start again what died, and do not wait until it is healthy. Returns what it was.

        :raises ConfigError: when a command is starting or stopping the stack.
        :raises TransientError: when the database does not come up.
        """
        if not self.dead():
            return []
        with self._alone():
            if not self.is_started:
                return []
            dead = self.dead()
            self._stop(self._state().of(dead), grace=5)  # of a dead process, children may live and hold its port
            for name in dead:
                if name == "postgres":
                    self._remember(postgres.start(self.layout.database).process)
                else:
                    self._spawn(name)
            return dead

    def _start(self, missing: Sequence[str], deadline: float, database_up: Callable[[], object]) -> None:
        self.console.step("starting PostgreSQL")
        database = postgres.start(self.layout.database)
        self._remember(database.process)
        self._prepare_files()
        database_up()
        for name in missing:
            if name in ("mlflow", "serving", "logs"):
                self._spawn(name)
        if any(name in AIRFLOW for name in missing):
            self._migrate(database, deadline)
        for name in missing:
            if name in AIRFLOW:
                self._spawn(name)
        self._wait_until_healthy(deadline)
        with AirflowApi(self.airflow_url) as airflow:
            airflow.ensure_pool(FEAST_POOL, 1, "One apply to Feast's registry at a time")
            airflow.ensure_pool(BACKFILL_POOL, 2, "Backfills, of all models")
            airflow.ensure_pool(GPU_QUEUE, max(1, len(find_gpus().devices)), "A slot for each GPU")
        if "watch" in missing:
            self._spawn("watch")

    def _prepare_files(self) -> None:
        layout = self.layout
        for folder in (layout.airflow, layout.artifacts, layout.models, layout.model_config.parent, layout.logs):
            folder.mkdir(parents=True, exist_ok=True)
        # The server reads it at its start; the first deployment writes it.
        layout.model_config.touch()
        # All settings come from the environment; without this, every process would write the same default file.
        (layout.airflow / "airflow.cfg").touch()

    def _spawn(self, name: str) -> None:
        record = processes.spawn(
            name,
            [sys.executable, "-m", *module_and_flags(name, self.layout, self.ports, self.database)],
            env=self.environment,
            cwd=self.layout.home,
            log=self.layout.log(name),
        )
        self._remember(record)

    def _migrate(self, database: Postgres, deadline: float) -> None:
        """Bring Airflow's tables up to date, unless this version of Airflow did so before."""
        stamp = self.layout.airflow / "migrated.json"
        now = {"airflow": version("apache-airflow-core"), "revision": postgres.schema_revision(database, "airflow")}
        if stamp.exists() and json.loads(stamp.read_text()) == now:
            return
        self.console.step("preparing Airflow's database")
        log = self.layout.log("migrate")
        with log.open("wb") as output:
            try:
                done = subprocess.run(
                    [sys.executable, "-m", "airflow", "db", "migrate"],
                    env=dict(self.environment),
                    cwd=self.layout.home,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=deadline - time.monotonic(),
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise self._too_slow(["migrate"]) from None
        if done.returncode != 0:
            raise TransientError(
                "Airflow's database could not be prepared.",
                detail=f"`airflow db migrate` exited with {done.returncode}; {log} ends:\n{tail(log)}",
                hint="Correct what it says, then start again.",
            )
        stamp.write_text(json.dumps(now | {"revision": postgres.schema_revision(database, "airflow")}))

    def _wait_until_healthy(self, deadline: float) -> None:
        waiting = list(self._state().processes)
        with HealthCheck(self.airflow_url, self.mlflow_url, self.serving_url) as health:
            while waiting := [record for record in waiting if not health.ready(record)]:
                self.check()
                names = [record.name for record in waiting]
                if time.monotonic() > deadline:
                    raise self._too_slow(names)
                self.console.step("waiting for", ", ".join(names))
                time.sleep(0.25)

    # --- down ---------------------------------------------------------------------------------------------

    def down(self, grace: float = 20) -> list[str]:
        """Stop everything that runs; also what a crash or a killed command left behind.

        :param grace: Seconds until what does not stop is killed.
        :returns: Names of the components that ran.
        """
        with self._alone(_PATIENCE):
            running = [name for name, record in self.status().items() if record is not None]
            database = postgres.find(self.layout.database)
            records = list(self._state().processes)
            if database is not None and database.process.pid not in {record.pid for record in records}:
                records.append(database.process)
                running.append("postgres")
            self._stop(records, grace)
            self.layout.state.unlink(missing_ok=True)
            return running

    def _stop(self, records: Iterable[ProcessRecord], grace: float) -> None:
        records = list(records)
        if alive := [record.name for record in records if record.alive]:
            self.console.step("stopping", ", ".join(alive))
        processes.stop([record for record in records if record.name != "postgres"], grace=grace)
        # Last, and by its fast shutdown: its clients are gone or cut off.
        processes.stop([record for record in records if record.name == "postgres"], sig=signal.SIGINT, grace=grace)
        self._state().minus([record.name for record in records]).write(self.layout.state)

    # --- state --------------------------------------------------------------------------------------------

    def _state(self) -> State:
        return State.read(self.layout.state) or self._itself

    @property
    def _itself(self) -> State:
        return State(self.ports, str(self.dags), str(self.feature_repo))

    def _remember(self, record: ProcessRecord) -> None:
        replace(self._itself, processes=self._state().plus(record).processes).write(self.layout.state)

    @contextmanager
    def _alone(self, patience: float = 0.0) -> Iterator[None]:
        """Let one command at a time change the stack.

        :param patience: Seconds to wait for another one: what starts again what died is soon done.
        """
        self.layout.run.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + patience
        with (self.layout.run / "lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() < deadline:
                        time.sleep(0.1)
                        continue
                    raise ConfigError(
                        "Another command is starting or stopping this stack.",
                        detail=f"home: {self.layout.home}",
                        hint="Wait until it is done.",
                    ) from None
            yield

    # --- words --------------------------------------------------------------------------------------------

    def _require_same(self) -> None:
        state = self._state()
        running = state.ports
        if (state.dags, state.feature_repo) != (str(self.dags), str(self.feature_repo)):
            raise ConfigError(
                "The stack already runs, for other folders.",
                detail=f"DAG files: {state.dags}; features: {state.feature_repo}",
                hint="Stop it first (airflow-mlops stack down), or choose another --home.",
            )
        if running != self.ports:
            differences = [
                f"{PURPOSES[name]} is on {old}, not {self.ports.as_dict()[name]}"
                for name, old in running.as_dict().items()
                if old != self.ports.as_dict()[name]
            ]
            given = " ".join(f"{variable(name)}={port}" for name, port in running.as_dict().items())
            raise ConfigError(
                "The stack already runs, on other ports.",
                detail="; ".join(differences),
                hint=f"Stop it first (airflow-mlops stack down), or ask for the ports it has: {given}",
            )

    def _died(self, name: str) -> TransientError:
        log = self.layout.database / "log" if name == "postgres" else self.layout.log(name)
        return TransientError(
            f"{name} has ended, though nobody stopped it.",
            detail=f"{log} ends:\n{tail(log)}",
            hint="Correct what it says, then start again: only what does not run is started.",
        )

    def _too_slow(self, waiting: Sequence[str]) -> TransientError:
        logs = [self.layout.log(name) for name in waiting]
        tails = "\n".join(f"{log} ends:\n{tail(log, 10)}" for log in logs)
        return TransientError(
            f"Not healthy in time: {', '.join(waiting)}.",
            detail=tails,
            hint="The machine may be busy: start again, or look at the logs.",
        )
