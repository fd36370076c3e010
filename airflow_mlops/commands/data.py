# ruff: noqa: T201  a command talks on standard output
"""The data itself: partitions and their revisions, suites drawn from profiles, retention."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.commands.place import (
    a_day,
    open_home,
    open_ledger,
    open_store,
    place_options,
    use_laptop_connections,
)
from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import ConfigError, did_you_mean

if TYPE_CHECKING:
    from airflow_mlops.contracts import Partition, Profile
    from airflow_mlops.engine.data.retention import RetentionReport, Swept
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.engine.sweep import Aged

_OF_PIPELINE = "DAG file and name, such as dags/churn.py:churn: draw it from the partitions that landed of its feed"


def add_data(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands about data."""
    dataset = place_options()
    dataset.add_argument("dataset", metavar="DATASET")

    partitions = commands.add_parser(
        "partitions", parents=[dataset], help="list sealed partitions, or a day's revisions"
    )
    partitions.add_argument("--day", metavar="DAY", help="list all revisions of this day; * marks the one that counts")
    partitions.set_defaults(run=_partitions)

    diff = commands.add_parser("diff", parents=[dataset], help="say what differs between two revisions of a day")
    diff.add_argument("day", metavar="DAY")
    diff.add_argument("old", metavar="OLD", help="revision")
    diff.add_argument("new", metavar="NEW", help="revision")
    diff.add_argument("--unique", nargs="+", default=(), metavar="COLUMN", help="columns that identify a row")
    diff.set_defaults(run=_diff)

    suggest = commands.add_parser(
        "suggest-suite", parents=[dataset], help="draw a suite from days nobody excluded, as JSON to edit"
    )
    suggest.add_argument("--from", dest="start", type=a_day, metavar="DAY", help="first day to draw it from")
    suggest.add_argument("--to", dest="end", type=a_day, metavar="DAY", help="last day to draw it from")
    suggest.add_argument("--out", type=Path, metavar="FILE", help="write it there (default: standard output)")
    suggest.add_argument("--force", action="store_true", help="overwrite FILE, with the edits in it")
    suggest.add_argument(
        "--landed",
        type=Path,
        metavar="FOLDER",
        help="draw it from a folder as it landed, where each file or folder is a partition",
    )
    suggest.add_argument("--pipeline", metavar="PIPELINE", help=_OF_PIPELINE)
    suggest.add_argument(
        "--reader", type=json.loads, default={}, metavar="JSON", help="options for CSV, as in Partitions"
    )
    suggest.set_defaults(run=_suggest)

    contract = commands.add_parser("suggest-contract", help="draw a schema contract from a landed folder, as Python")
    contract.add_argument(
        "landed", metavar="FOLDER", help="where the upstream lands; with --pipeline: the dataset of the feed"
    )
    contract.add_argument("--home", help="home folder, for a feed whose uri is relative")
    contract.add_argument("--pipeline", metavar="PIPELINE", help=_OF_PIPELINE)
    contract.add_argument(
        "--reader", type=json.loads, default={}, metavar="JSON", help="options for CSV, as in Partitions"
    )
    contract.set_defaults(run=_suggest_contract)

    sweep = commands.add_parser(
        "sweep",
        parents=[place_options()],
        help="remove what is older than it need be, and what no kept model needs; says first what that is",
    )
    sweep.add_argument("dataset", nargs="?", metavar="DATASET", help="only the partitions of this one, days and all")
    sweep.add_argument("--keep", required=True, metavar="DURATION", help="age that stays, such as 90d")
    sweep.add_argument(
        "--keep-data", metavar="DURATION", help="without DATASET: age of the days of data that stay (default: all stay)"
    )
    sweep.add_argument("--yes", action="store_true", help="remove it; without this, only say what would go")
    sweep.add_argument(
        "--force",
        action="store_true",
        help="with DATASET: remove also what models were trained on, and mark them in the ledger",
    )
    sweep.set_defaults(run=_sweep)


def _partitions(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.data.sources import no_partitions

    store = open_store(options)
    if options.day is None:
        partitions = store.list(options.dataset, None, None)
        if not partitions:
            raise no_partitions(store, options.dataset)
        for partition in partitions:
            print(f"{partition.key}  {_line(partition)}")
        return
    current = store.get(options.dataset, options.day).revision
    for partition in store.revisions(options.dataset, options.day):
        mark = "*" if partition.revision == current else " "
        print(f"{mark} {_line(partition)}  from {partition.receipt.uri}")


def _line(partition: Partition) -> str:
    return f"{partition.revision}  {partition.rows:9,} rows  {partition.bytes:13,} bytes"


def _diff(options: argparse.Namespace) -> None:
    found = open_store(options).diff(options.dataset, options.day, options.old, options.new, unique=options.unique)
    for name, value in found.model_dump(exclude={"dataset", "key", "old", "new"}).items():
        if value not in (None, (), {}):
            print(f"{name.replace('_', ' '):16} {_words(value)}")


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{column}: {old} → {new}" for column, (old, new) in value.items())
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _suggest(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.data.exclusions import exclusions
    from airflow_mlops.engine.data.suggest import suggest_from_store, suggest_suite

    if options.out is not None and options.out.exists() and not options.force:
        raise ConfigError(
            "The file is there already, and somebody may have edited it.",
            detail=str(options.out),
            hint="Choose another --out, or overwrite it with --force.",
        )
    if options.pipeline:
        suite = suggest_suite(_profiles(options, options.dataset), name=options.dataset)
    elif options.landed is not None:
        from airflow_mlops.engine.data.suggest_landed import profiles_of_landed

        suite = suggest_suite(profiles_of_landed(options.landed, options.reader), name=options.dataset)
    else:
        ledger = open_ledger(options)
        store, excluded = open_store(options, ledger), exclusions(ledger, options.dataset)
        suite = suggest_from_store(store, options.dataset, options.start, options.end, excluded)
    text = json.dumps(suite, indent=2) + "\n"
    if options.out is None:
        print(text, end="")
        return
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)
    except OSError as error:
        raise ConfigError(
            "The suite cannot be written.",
            detail=f"{options.out}: {error.strerror}",
            hint="Name a file as --out, in a folder that is there and that you may write to.",
        ) from None
    print(f"Wrote {options.out}. Read it, edit it, then name it as the suite of {options.dataset!r}.")


def _suggest_contract(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.data.suggest_landed import profiles_of_landed, suggest_contract

    if options.pipeline:
        profiles = _profiles(options, options.landed)
    else:
        profiles = profiles_of_landed(Path(options.landed), options.reader)
    print(suggest_contract(profiles), end="")


def _profiles(options: argparse.Namespace, dataset: str) -> list[Profile]:
    """Return the profiles of what has landed of a feed of a pipeline."""
    from airflow_mlops.commands.history import load_pipeline
    from airflow_mlops.engine.data.suggest_landed import profiles_of_feed
    from airflow_mlops.feeds import Partitions
    from airflow_mlops.operators.base import beneath

    _, pipeline = load_pipeline(options.pipeline)
    feeds = {feed.dataset: feed for feed in pipeline.feeds if isinstance(feed, Partitions)}
    if dataset not in feeds:
        raise ConfigError(
            f"{options.pipeline} has no feed {dataset!r} of files.{did_you_mean(dataset, feeds)}",
            detail=f"there are: {', '.join(feeds) or 'none'}",
            hint="Name one of them.",
        )
    return profiles_of_feed(feeds[dataset], partial(beneath, open_home(options)))


def _sweep(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.data.retention import sweep_partitions
    from airflow_mlops.engine.data.sources import no_partitions

    if options.dataset is None:
        _sweep_everything(options)
        return
    if options.keep_data:
        raise ConfigError(
            "--keep-data is for a sweep of everything.",
            detail=f"this one is of the partitions of {options.dataset!r}",
            hint="Say their age by --keep.",
        )
    ledger, keep = open_ledger(options), parse_duration(options.keep)
    store = open_store(options, ledger)
    if not store.keys(options.dataset):
        raise no_partitions(store, options.dataset)
    now, dry_run = datetime.now(UTC), not options.yes
    swept = sweep_partitions(store, ledger, options.dataset, keep, now=now, force=options.force, dry_run=dry_run)
    _print_revisions(swept, dry_run)
    print(_total(len(swept.removed), sum(one.bytes for one in swept.removed), "revisions", dry_run))


def _sweep_everything(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.sweep import sweep

    if options.force:
        raise ConfigError(
            "A sweep of everything never takes what a kept model needs.",
            detail="--force",
            hint="Name the dataset whose partitions shall go all the same.",
        )
    ledger, home, dry_run = open_ledger(options), open_home(options), not options.yes
    report = sweep(
        home,
        ledger,
        open_store(options, ledger),
        keep=parse_duration(options.keep),
        keep_data=parse_duration(options.keep_data) if options.keep_data else None,
        model_stores=_model_stores(home, ledger),
        now=datetime.now(UTC),
        dry_run=dry_run,
    )
    for one in (*report.going, *report.staying):
        print(f"{_verb(one in report.going, dry_run)}  {one.kind:10}  {one.bytes:13,} bytes  {one.path}{_needed(one)}")
    for swept in report.datasets:
        _print_revisions(swept, dry_run, f"{swept.dataset}  ")
    print(_total(report.count, report.bytes, "files, folders and revisions", dry_run))


def _model_stores(home: Path, ledger: Ledger) -> dict[str, Path]:
    """Return where the models of each server lie that has a connection here."""
    try:
        from airflow_mlops.operators.retention import model_stores
    except ImportError:
        return {}
    use_laptop_connections(home)
    stores, unknown = model_stores(ledger)
    for server in unknown:
        print(f"not looked at: the model store of {server}, which no connection here says")
    return stores


def _print_revisions(report: RetentionReport, dry_run: bool, dataset: str = "") -> None:
    for one in (*report.removed, *report.kept):
        verb = _verb(one in report.removed, dry_run)
        print(f"{verb}  {dataset}{one.key}  {one.revision}  {one.bytes:13,} bytes  {one.reason}{_needed(one)}")


def _verb(goes: bool, dry_run: bool) -> str:
    return "kept        " if not goes else "would remove" if dry_run else "removed     "


def _total(count: int, size: int, what: str, dry_run: bool) -> str:
    if dry_run:
        return f"{count} {what} would go, {size:,} bytes. Nothing is removed without --yes"
    return f"{count} {what} removed, {size:,} bytes"


def _needed(swept: Swept | Aged) -> str:
    return f", needed by {', '.join(swept.needed_by)}" if swept.needed_by else ""
