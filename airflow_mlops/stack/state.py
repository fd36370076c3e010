"""Which processes of a stack were started, and on which ports: a file that any shell can read."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from airflow_mlops.stack.ports import Ports
from airflow_mlops.stack.processes import ProcessRecord


@dataclass(frozen=True)
class State:
    """What was started, dead or alive.

    :param dags: Folder with the DAG files.
    :param feature_repo: The Feast repository.
    """

    ports: Ports
    dags: str
    feature_repo: str
    processes: tuple[ProcessRecord, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read the file, or return None when there is none."""
        try:
            stored = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        processes = tuple(ProcessRecord(**record) for record in stored.pop("processes"))
        return cls(Ports(**stored.pop("ports")), **stored, processes=processes)

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        staged = path.with_name(f".tmp-{path.name}")
        staged.write_text(json.dumps(asdict(self), indent=2))
        staged.replace(path)

    def find(self, name: str) -> ProcessRecord | None:
        """Return the record of a component."""
        return next((record for record in self.processes if record.name == name), None)

    def of(self, names: Collection[str]) -> list[ProcessRecord]:
        """Return the records of some components."""
        return [record for record in self.processes if record.name in names]

    def plus(self, record: ProcessRecord) -> State:
        """Return the state with a component's record set."""
        return replace(self.minus([record.name]), processes=(*self.minus([record.name]).processes, record))

    def minus(self, names: Collection[str]) -> State:
        """Return the state without some components."""
        return replace(self, processes=tuple(record for record in self.processes if record.name not in names))
