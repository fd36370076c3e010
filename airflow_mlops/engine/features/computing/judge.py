"""Computed rows against a suite and against the view's own history, before any of them is written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import ExpectationOutcome, Profile, ValidationResult, content_hash
from airflow_mlops.durations import parse_duration
from airflow_mlops.engine.data.checks.acceptance import accepted
from airflow_mlops.engine.data.checks.references import ENOUGH
from airflow_mlops.engine.data.checks.rows import reconcile_rows
from airflow_mlops.engine.data.checks.run import as_result, run_checks
from airflow_mlops.engine.data.checks.sql import count_rejected
from airflow_mlops.engine.data.files import replacing, sha256
from airflow_mlops.engine.data.partitions import parse_profile
from airflow_mlops.engine.data.profiles import profile_files
from airflow_mlops.engine.data.validation import enforce, load_suite, validate
from airflow_mlops.engine.features.computing.files import revision_of
from airflow_mlops.engine.features.project.schema import FeatureRepo, feature_file
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.partitioning import DAILY, Partitioning
from airflow_mlops.parts import Checks, Rows

log = logging.getLogger(__name__)

_MOVES = frozenset({"unit_unchanged", "times_as_usual", "distinct_numbers_as_usual"})
"""What blocks a feed, and only warns of computed rows: a mean over days moves with the days, all its rows at once, and
looks like another unit. Of 364 real days of airport traffic these blocked 78, none of them wrong."""


def judge_rows(
    home: Path,
    key: str,
    tables: Mapping[str, pa.Table],
    *,
    repo: FeatureRepo,
    validated: Mapping[str, ValidationResult],
    checks: Mapping[str, Checks],
    skip: Collection[str] = (),
    rows: Sequence[Rows] = (),
    incoming: Callable[[str], pa.Table],
    partitioning: Partitioning = DAILY,
    ledger: Ledger | None = None,
    show: Callable[[ValidationResult], None] | None = None,
) -> None:
    """Hold a day's computed rows against what is declared of their views; what was found goes into the ledger.

    The history of a view is its own files of earlier days. None of them was refused: a refused day is not written.

    :param tables: Feature view → rows.
    :param validated: Feature view → what its suite said, from :func:`validate_rows`.
    :param checks: Feature view → what else it is held against; a view with a suite has the default ones.
    :param rows: How many rows views must have.
    :param incoming: Called with a dataset of ``rows``: its rows of the day that the transform was given.
    :param skip: Days that nothing is compared with, such as those with excluded data.
    :param show: Called with each result that found something, those that block last.
    :raises DataError: when a suite, the history or the number of rows blocks a view, or one with a suite has no rows.
    :raises ConfigError: when a name is not of a view that the transform computes.
    """
    _check_names({*checks, *(one.view for one in rows)}, repo, tables)
    results = []
    with TemporaryDirectory() as folder:
        for name in sorted({*validated, *checks}):
            file = Path(folder) / f"{name}.parquet"
            pq.write_table(tables[name], file)
            if name in validated:
                results.append((name, validated[name]))
            view = _View(home, name, list(repo.views[name].keys), checks.get(name, Checks()), partitioning)
            results.append((name, view.against_history(file, key, skip)))
    results += [(one.view, _count(one, key, tables[one.view], incoming(one.dataset))) for one in rows]
    for name, result in results:
        if ledger is not None:
            ledger.record("validation", subject(name), result.model_dump(mode="json"), key=key)
    if show is not None:
        for _, result in sorted(results, key=lambda pair: pair[1].blocked):
            if result.failed:
                show(result)
    for name, result in results:
        if result.blocked and ledger is not None and (acceptance := accepted(ledger, subject(name), key, result)):
            log.warning("%s %s was accepted by %s: %s", name, key, acceptance.who, acceptance.reason)
        else:
            enforce(result)


def validate_rows(
    key: str, tables: Mapping[str, pa.Table], suites: Mapping[str, str], *, repo: FeatureRepo, code_path: str
) -> dict[str, ValidationResult]:
    """Return what the suites of feature views say of computed rows; nothing is refused yet.

    :param suites: Feature view → ``module:function`` of its expectations.
    :param code_path: Folder that they are imported from.
    :raises DataError: when a view with a suite has no rows.
    :raises ConfigError: when a name is not of a view that the transform computes, or a suite cannot be loaded.
    """
    _check_names(suites, repo, tables)
    results = {}
    with TemporaryDirectory() as folder:
        for name in sorted(suites):
            file = Path(folder) / f"{name}.parquet"
            pq.write_table(tables[name], file)
            results[name] = validate([file], load_suite(suites[name], code_path), batch=f"{name}/{key}")
    return results


def subject(view: str) -> str:
    """Return under which name what was found of a view is in the ledger, and a day of it is accepted."""
    return f"features.{view}"


def _check_names(names: Collection[str], repo: FeatureRepo, tables: Mapping[str, pa.Table]) -> None:
    for name in sorted(names):
        if name not in repo.views or name not in tables:
            known = sorted(tables)
            raise ConfigError(
                f"There are checks for a feature view {name!r} that the transform does not compute."
                f"{did_you_mean(name, known)}",
                detail=f"it computes: {', '.join(known)}",
                hint="Correct the name in FeatureService(view_suites=..., view_checks=..., rows=...).",
            )


def _count(how: Rows, key: str, made: pa.Table, given: pa.Table) -> ValidationResult:
    """Say whether the rows that went into a transform came out, or were rejected for a reason."""
    rejected = count_rejected(given, how.rejected)
    return as_result(
        [rejected]
        if isinstance(rejected, ExpectationOutcome)
        else reconcile_rows(given.num_rows, made.num_rows, rejected, expected_ratio=how.ratio, tolerance=how.tolerance),
        made.num_rows,
        batch=f"{how.view}/{key}",
        batch_hash=content_hash([how.dataset, key, given.num_rows, made.num_rows]),
        parameters=asdict(how),
        suite=f"rows of {how.dataset}",
    )


@lru_cache(maxsize=2048)
def _revision(file: Path, _written: int) -> str:
    """Return the revision of a written file, hashed again only when it was written again."""
    return revision_of(file)


class _View(NamedTuple):
    """A feature view, and how its rows are held against its own earlier partitions."""

    home: Path
    name: str
    keys: Collection[str]
    checks: Checks
    partitioning: Partitioning

    def against_history(self, file: Path, key: str, skip: Collection[str]) -> ValidationResult:
        """Judge rows that are not written yet."""
        checks, revision = self.checks, sha256(file)
        profile = self._profile(file, key, revision)
        outcomes = run_checks(
            profile,
            self._earlier(key, skip),
            slices=checks.slices,
            unique=checks.unique,
            identifiers=[*checks.identifiers, *self.keys],
            volatile=checks.volatile,
            invariants=checks.invariants,
            files=[file],
        )
        outcomes = [
            one.model_copy(update={"severity": "warn"}) if one.expectation in _MOVES and one.error is None else one
            for one in outcomes
        ]
        batch = f"{self.name}/{key}"
        return as_result(outcomes, profile.rows, batch=batch, batch_hash=revision, parameters=asdict(checks))

    def _earlier(self, key: str, skip: Collection[str]) -> list[Profile]:
        """Return the profiles of earlier partitions, oldest first; the newest ones where few are recent."""
        folder = feature_file(self.home, self.name, key).parent
        keys = sorted(file.stem for file in folder.glob("[!.]*.parquet") if file.stem < key and file.stem not in skip)
        since = self.partitioning.key(self.partitioning.interval(key)[0] - parse_duration(self.checks.history))
        recent = [one for one in keys if one >= since]
        return [self._kept_profile(one) for one in (recent if len(recent) >= ENOUGH else keys[-ENOUGH:])]

    def _kept_profile(self, key: str) -> Profile:
        """Return the profile of a written partition, kept beside it the first time."""
        file = feature_file(self.home, self.name, key)
        kept = file.parent / "profiles" / f"{key}.json"
        if kept.exists():
            profile = parse_profile(kept.read_bytes())
            if profile.revisions == {key: _revision(file, file.stat().st_mtime_ns)} and self._fits(profile):
                return profile
        revision = revision_of(file)
        profile = self._profile(file, key, revision)
        with replacing(kept) as made:
            made.write_text(profile.to_json())
        return profile

    def _fits(self, profile: Profile) -> bool:
        checks = self.checks
        return set(checks.slices) <= set(profile.slices) and tuple(profile.unique) == tuple(checks.unique)

    def _profile(self, file: Path, key: str, revision: str) -> Profile:
        return profile_files(
            [file],
            dataset=self.name,
            key=key,
            revision=revision,
            slices=self.checks.slices,
            unique=self.checks.unique,
            partitioning=self.partitioning,
        )
