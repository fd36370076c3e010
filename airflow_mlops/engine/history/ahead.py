"""What was worked out ahead of its turn, kept in the home until then: partitions staged and validated, rows computed.

That takes the time and needs nothing of other partitions, so several tasks do it at once. What comes after it, the
checks against the partitions before and the swap, goes in order::

    backfills/<model>/<plan>.<dataset>.<key>.json           of features beside it <…>.<key>.<view>.arrow

What is kept is only taken while it is true: files are hashed again before they count, and rows count only if the
partitions, the exclusions and the code that they were computed from are those of now.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyarrow import feather
from pydantic import ConfigDict, TypeAdapter, ValidationError

from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.exclusions import exclusions
from airflow_mlops.engine.data.shared import discard, fetch, publishing
from airflow_mlops.engine.features.computing.compute import Draft
from airflow_mlops.engine.features.computing.provenance import windows
from airflow_mlops.engine.history.sealing import Prepared
from airflow_mlops.exceptions import DataError

if TYPE_CHECKING:
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.features.computing.code import Code
    from airflow_mlops.engine.ledger import Ledger

_PREPARED = TypeAdapter(Prepared)
_DRAFT = TypeAdapter(Draft, config=ConfigDict(arbitrary_types_allowed=True))


class Answer(NamedTuple):
    """What came of working on one partition: ready for its turn, refused, or None where it is there already.

    :param seconds: How long it took when it was worked out ahead; 0 of what was worked out just now.
    """

    said: Prepared | Draft | DataError | None
    seconds: float = 0.0


class Ahead:
    """What one plan worked out ahead.

    :param home: The home folder.
    :param model: Of which model.
    :param plan: Name of the plan: what others left is not taken.
    """

    def __init__(self, home: Path, model: str, plan: str) -> None:
        self.folder, self.plan = home / "backfills" / model, plan

    def keep(self, dataset: str, key: str, answer: Prepared | Draft, seconds: float) -> None:
        """Keep what was worked out in so many seconds.

        :param dataset: The dataset; any name for features.
        """
        told: dict[str, Any] = {"seconds": seconds}
        if isinstance(answer, Draft):
            told |= {"draft": _DRAFT.dump_python(answer._replace(tables={}), mode="json"), "views": [*answer.tables]}
            for view, table in answer.tables.items():
                with publishing(self._file(dataset, key, f"{view}.arrow")) as made:
                    feather.write_feather(table, made, compression="uncompressed")
        else:
            told["prepared"] = _PREPARED.dump_python(answer, mode="json")
        with publishing(self._file(dataset, key)) as made:
            made.write_text(json.dumps(told))

    def has(self, dataset: str, key: str) -> bool:
        """Whether something was kept of a partition."""
        file = self._file(dataset, key)
        fetch(file)
        return file.exists()

    def take(self, dataset: str, key: str) -> Answer | None:
        """Return what was kept of a partition; None when nothing was, or a newer release reads it no more."""
        if not self.has(dataset, key):
            return None
        file = self._file(dataset, key)
        try:
            told = json.loads(file.read_text())
            if "prepared" in told:
                return Answer(_PREPARED.validate_python(told["prepared"]), told["seconds"])
            tables = {view: self._file(dataset, key, f"{view}.arrow") for view in told["views"]}
            for table in tables.values():
                fetch(table)
            draft = _DRAFT.validate_json(json.dumps(told["draft"]))
            read = {view: feather.read_table(table, memory_map=False) for view, table in tables.items()}
            return Answer(draft._replace(tables=read), told["seconds"])
        except (ValidationError, ValueError, KeyError, OSError):
            return None

    def forget(self, dataset: str, key: str) -> None:
        """Keep it no more: it was taken, or refused."""
        file = self._file(dataset, key)
        if file.exists():  # whoever takes it fetches it
            discard(file)
            file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all that any plan of the model kept: there is one at a time."""
        discard(self.folder)
        storage.remove(self.folder)

    def _file(self, dataset: str, key: str, kind: str = "json") -> Path:
        return self.folder / f"{self.plan}.{dataset}.{key}.{kind}"


def as_of_now(draft: Draft, *, store: PartitionStore, ledger: Ledger, code: Code) -> Draft | None:
    """Return rows that were computed ahead with the exclusions of now; None when others would be computed now."""
    until = draft.partitioning.interval(draft.key)[1]
    excluded = {name: exclusions(ledger, name) for name in draft.excluded}
    same = (
        draft.code == code
        and all(
            windows(excluded[name], draft.since, until) == windows(was, draft.since, until)
            for name, was in draft.excluded.items()
        )
        and all(store.current(one.dataset, one.key) == one.revision for used in draft.used.values() for one in used)
    )
    return draft._replace(excluded=excluded) if same else None
