"""Judging a model again: on the inputs of then the verdict repeats; on what the table says now it says what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.contracts import GateCheck, Record, Snapshot, Verdict
from airflow_mlops.engine.data.lateness import require_model
from airflow_mlops.engine.data.parquet import listing
from airflow_mlops.engine.data.snapshots import find_snapshot, read_split
from airflow_mlops.engine.evaluation.approvals import last_verdicts
from airflow_mlops.engine.evaluation.evaluate import evaluate
from airflow_mlops.engine.evaluation.gates import judge
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, GateError


class Rejudgement(Record):
    """A verdict that was made again, and why it is not the same one; ``reasons`` is empty when it is."""

    verdict: Verdict
    reasons: tuple[str, ...]

    @property
    def repeats(self) -> bool:
        """Whether it is the verdict of then, on the same inputs."""
        return not self.reasons


def rejudge(
    recorded: Verdict,
    gates: Sequence[Mapping[str, Any]],
    *,
    was: Snapshot,
    now: Snapshot,
    challenger: Path,
    champion: Path | None = None,
    champion_version: str | None = None,
    slices: Sequence[str] = (),
) -> Rejudgement:
    """Judge a model again, on the snapshot that it was judged on or on another one.

    :param recorded: The verdict of then.
    :param gates: The gates, as dicts.
    :param was: The snapshot of then; for one whose files are lost see
        :func:`~airflow_mlops.engine.features.training.training_data.rebuild_snapshot`.
    :param now: The snapshot to judge on: the same, or one that was built from what the tables say now.
    :param challenger: Folder of the model's SavedModel.
    :param champion: Folder of the SavedModel that it was compared with.
    :param champion_version: Its version.
    :param slices: Model inputs that the gates slice by.
    :raises DataError: when a snapshot's files are not what was written, or the model cannot be scored.
    """
    evaluation = evaluate(now, challenger, champion, champion_version, slices)
    verdict = judge(recorded.model, gates, evaluation)
    if verdict.inputs_hash == recorded.inputs_hash:
        return Rejudgement(verdict=verdict, reasons=())
    reasons = [*_data(was, now), *_checks(recorded, verdict)]
    return Rejudgement(verdict=verdict, reasons=tuple(reasons) or ("the gates or the evaluation are others",))


def rejudge_version(
    ledger: Ledger,
    home: Path,
    model: str,
    version: int,
    saved_model: Callable[[int], Path],
    *,
    gates: Sequence[Mapping[str, Any]] | None = None,
    on: str = "",
) -> Rejudgement:
    """Judge a version again by its last verdict in the ledger: those gates, that snapshot, that champion.

    :param saved_model: Version → folder of its SavedModel, fetched if need be.
    :param gates: The gates, for a verdict of a release that did not keep them.
    :param on: Id of another snapshot to judge it on.
    :raises ConfigError: when it was never judged, its gates are not known, or are known and others are given.
    :raises DataError: when a snapshot or a model is not there, or not as it was written.
    """
    verdicts = last_verdicts(ledger, model)
    found = verdicts.get(version)
    if found is None:
        require_model(ledger, model)
        raise ConfigError(
            f"Version {version} of {model!r} was never judged.",
            detail=f"judged: {', '.join(map(str, sorted(verdicts))) or 'none'}",
            hint="Judge it first: MLflowJudgeModelOperator.",
        )
    if found.get("gates") and gates:
        raise ConfigError(
            f"The gates of version {version} of {model!r} are in the ledger: it is judged by these.",
            detail=f"{len(found['gates'])} gates",
            hint="Leave the others out. To judge by other gates, let a task MLflowJudgeModelOperator do it.",
        )
    known = found.get("gates") or gates
    if not known:
        raise ConfigError(
            f"The gates of version {version} of {model!r} are not known.",
            detail="it was judged by a release that did not keep them in the ledger",
            hint='Pass them: --gates FILE, a JSON list such as [{"metric": "auc", "min": 0.65}].',
        )
    champion = found.get("champion_version")
    return rejudge(
        Verdict(model=model, status=found["status"], checks=_recorded(found), inputs_hash=found["inputs_hash"]),
        known,
        was=find_snapshot(home, found["snapshot_id"]),
        now=find_snapshot(home, on or found["snapshot_id"]),
        challenger=saved_model(version),
        champion=None if champion is None else saved_model(int(champion)),
        champion_version=champion,
        slices=sorted({gate["by"]["column"] for gate in known if gate.get("by")}),
    )


def demand_repeat(again: Rejudgement, model: str, version: int) -> None:
    """Fail when a verdict on the inputs of then does not repeat.

    :raises GateError: with the reasons.
    """
    if not again.repeats:
        raise GateError(
            f"The verdict on version {version} of {model!r} does not repeat: it is {again.verdict.status} now.",
            detail="\n         ".join(again.reasons),
            hint="Files of the model or of its snapshot were changed, or the code that judges was: see which.",
        )


def _recorded(found: Mapping[str, Any]) -> tuple[GateCheck, ...]:
    return tuple(GateCheck.model_validate(check) for check in found["checks"])


def _data(was: Snapshot, now: Snapshot) -> Iterator[str]:
    """Say in what two snapshots differ."""
    if was.id == now.id:
        return
    for dataset in sorted({*was.partitions, *now.partitions}):
        before, after = was.partitions.get(dataset, {}), now.partitions.get(dataset, {})
        changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
        if changed:
            named = [f"{key} ({before.get(key, 'none')} → {after.get(key, 'none')})" for key in changed]
            yield f"partitions of {dataset!r} were replaced: {listing(named)}"
    said = {
        "exclusions": "what is excluded changed",
        "feature_definition": f"the definition of feature service {now.feature_service!r} changed",
        "feature_code": "the features were computed by other code",
        "features": "the model's inputs changed",
        "split_rule": "rows are split otherwise",
        "label_cut": f"labels are known up to {now.label_cut:%Y-%m-%d %H:%M} UTC, not {was.label_cut:%Y-%m-%d %H:%M}",
        "heads": f"the heads changed: {', '.join(was.heads) or 'none'} → {', '.join(now.heads) or 'none'}",
    }
    yield from (words for field, words in said.items() if getattr(was, field) != getattr(now, field))
    yield from _labels(was, now)


def _labels(was: Snapshot, now: Snapshot) -> Iterator[str]:
    """Say how many rows of the test split came, went, and have another label."""
    heads = [name for name in was.heads if name in now.heads]
    before, after = (read_split(one, "test").select([one.entity, one.label, *heads]) for one in (was, now))
    names = [str(place) for place in range(len(heads) + 1)]  # the label may be called otherwise now
    both = before.rename_columns(["entity", *names]).join(
        after.rename_columns(["entity", *(f"{name} now" for name in names)]), "entity", join_type="full outer"
    )
    for name, head in zip(names, ["", *heads], strict=True):
        known = pc.and_(both[name].is_valid(), both[f"{name} now"].is_valid())
        if changed := _count(pc.and_(known, pc.not_equal(both[name], both[f"{name} now"]))):
            yield f"{changed} of {before.num_rows} labels {f'of {head!r} ' if head else ''}of the test split are others"
    gone, new = _count(both["0 now"].is_null()), _count(both["0"].is_null())
    if gone or new:
        yield f"the test split lost {gone} rows and got {new} new ones"


def _count(flags: pa.ChunkedArray) -> int:
    return pc.sum(flags).as_py() or 0


def _checks(was: Verdict, now: Verdict) -> Iterator[str]:
    """Say which gates turned."""
    before = {(check.gate, check.slice): check for check in was.checks}
    for check in now.checks:
        found = before.get((check.gate, check.slice))
        if found is not None and found.passed != check.passed:
            turned = "passed, now fails" if found.passed else "failed, now passes"
            yield f"{check.gate}: {turned} ({found.reason}; now {check.reason})"
