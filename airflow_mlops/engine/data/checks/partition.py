"""A landed day against everything that is declared of it: profile it once, then compare profiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from airflow_mlops.contracts import Profile, ValidationResult
from airflow_mlops.durations import parse_duration
from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.checks.contract import SchemaContract, name_readers
from airflow_mlops.engine.data.checks.references import references
from airflow_mlops.engine.data.checks.run import as_result, run_checks
from airflow_mlops.engine.data.exclusions import exclusions
from airflow_mlops.engine.data.labels import is_known_at
from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import PartitionStore, batch_hash
from airflow_mlops.engine.data.profiles import merge, profile_files
from airflow_mlops.engine.entrypoints import load_object
from airflow_mlops.engine.users_code import users_code
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean
from airflow_mlops.partitioning import Partitioning
from airflow_mlops.problems import check_label

if TYPE_CHECKING:
    from airflow_mlops.engine.data.storage import AnyPath
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.parts import Checks


class CheckedBatch(NamedTuple):
    """What the checks said, the day's profile, how many valid days it was compared with, and these merged."""

    result: ValidationResult
    profile: Profile
    references: int
    usual: Profile | None


def check_partition(
    store: PartitionStore,
    ledger: Ledger,
    dataset: str,
    key: str,
    landed: AnyPath,
    *,
    event_time: str,
    validated: str,
    checks: Checks,
    code_path: str | None = None,
    uses: Callable[[], Mapping[str, Sequence[str]]] = dict,
    profile: Profile | None = None,
    label: str = "",
    problem: str = "",
    heads: Mapping[str, str] = MappingProxyType({}),
    needs: Sequence[str] = (),
    known_at: str = "",
) -> CheckedBatch:
    """Profile what landed, keep the profile beside the partition to be, and hold it against the valid days before.

    :param landed: Folder with the Parquet files.
    :param validated: Hash of the batch that its suite let through: only that is looked at.
    :param code_path: Folder that the checks' contract is imported from.
    :param uses: Called when something fails: column → who reads it.
    :param profile: Of these files, if it was made already by :func:`profile_landed`.
    :param label: Column that a model is to predict, if this dataset carries it.
    :param problem: Problem type; empty: by the type of the label.
    :param heads: Further labels beside it: column → problem type, empty likewise.
    :param needs: Columns that a model needs of this dataset.
    :param known_at: Column of when the label became known, if there is one.
    :raises DataError: when the files changed since they were validated, or cannot be read, or the label is no label.
    :raises ConfigError: when the checks name a column or a contract that does not exist.
    """
    of_label = problem if label == checks.label else ""
    files = parquet_files(landed)
    found = batch_hash(files)
    if found != validated:
        raise DataError(
            "The files changed after they were validated.",
            detail=f"{landed}: validated {validated[:16]}, found {found[:16]}",
            hint="Clear the validation task, so that what is checked is what was validated.",
        )
    revision = found[:16]
    if profile is None:
        profile = profile_landed(
            landed, dataset, key, revision, checks=checks, partitioning=store.partitioning(dataset), problem=of_label
        )
    _check_needs(profile, dataset, needs, known_at)
    for column, kind in {label: problem, **heads}.items() if label else ():
        check_label(profile.columns.get(column), column, f"partition of {dataset!r}", kind)
    store.write_profile(dataset, key, revision, profile)
    history = parse_duration(checks.history)
    before = references(store, dataset, key, history=history, exclusions=exclusions(ledger, dataset))
    contract = load_contract(checks.contract, code_path)

    said = run_checks(
        profile,
        before,
        slices=checks.slices,
        label=checks.label,
        problem=of_label,
        unique=checks.unique,
        identifiers=checks.identifiers,
        volatile=checks.volatile,
        invariants=checks.invariants,
        files=files,
        contract=contract,
        event_time=event_time,
        interval=store.partitioning(dataset).interval(key),
        written_at=max(storage.modified(file) for file in files),
        late=[label, known_at, *heads] if known_at else [],
    )
    if not all(one.success for one in said):
        said = name_readers(said, uses())
    parameters = {**asdict(checks), "contract_version": contract.version if contract else None}
    result = as_result(said, profile.rows, batch=f"{dataset}/{key}", batch_hash=found, parameters=parameters)
    return CheckedBatch(result, profile, len(before), merge(before) if before else None)


def _check_needs(profile: Profile, dataset: str, needs: Sequence[str], known_at: str) -> None:
    """Refuse a partition without the columns that a model needs: here, and not at the first training."""
    there = profile.columns
    if missing := [name for name in dict.fromkeys([*needs, *([known_at] if known_at else [])]) if name not in there]:
        raise DataError(
            f"{dataset!r} has no column {missing[0]!r}.{did_you_mean(missing[0], there)}",
            detail=f"the pipeline names {', '.join(map(repr, missing))}; there are: {', '.join(there)}",
            hint="Correct the name in the pipeline: label, heads, known_at, entity, keys, weight, group "
            "or split_column.",
        )
    if known_at and not is_known_at(there[known_at].type):
        raise DataError(
            f"{known_at!r}, when the label is known, is of type {there[known_at].type}: no moment.",
            detail=f"dataset {dataset!r}",
            hint="Name a column of times or dates; a text becomes one by the dataset's contract.",
        )


def profile_landed(
    landed: AnyPath,
    dataset: str,
    key: str,
    revision: str,
    *,
    checks: Checks,
    partitioning: Partitioning,
    problem: str = "",
) -> Profile:
    """Return the profile that the checks of a partition need.

    :param problem: Problem type of the label that they name, where it is what a model is to predict.
    """
    return profile_files(
        parquet_files(landed),
        dataset=dataset,
        key=key,
        revision=revision,
        partitioning=partitioning,
        slices=checks.slices,
        label=checks.label,
        problem=problem,
        unique=checks.unique,
    )


def load_contract(spec: str | None, code_path: str | None) -> SchemaContract | None:
    """Return the contract that ``module:function`` gives; None of none.

    :raises ConfigError: when it cannot be loaded, or gives something else.
    """
    if spec is None:
        return None
    function = load_object(spec, code_path)
    with users_code(ConfigError, f"The contract {spec!r}", hint="Correct the function; nothing was checked."):
        contract = function()
    if not isinstance(contract, SchemaContract):
        raise ConfigError(
            f"{spec!r} does not return a SchemaContract.",
            detail=f"it returned a {type(contract).__name__}",
            hint="Return SchemaContract(version='1', columns={'id': Column('string', nullable=False), …}).",
        )
    return contract
