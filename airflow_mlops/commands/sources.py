# ruff: noqa: T201  a command talks on standard output
"""What people say of the sources: announce, exclude, lift; and how they stand."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_mlops.commands.place import open_ledger, open_store, place_options, who
from airflow_mlops.moments import parse_day_or_moment

if TYPE_CHECKING:
    from airflow_mlops.contracts import Exclusion


def add_sources(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands about sources."""
    place = place_options()
    reason = argparse.ArgumentParser(add_help=False)
    reason.add_argument("--reason", required=True, help="why, in words; kept in the ledger with your name")

    announce = commands.add_parser(
        "announce", parents=[place, reason], help="say that a dataset is degraded (training holds), or ok again"
    )
    announce.add_argument("dataset", metavar="DATASET")
    announce.add_argument("state", metavar="STATE", help="degraded or ok")
    announce.set_defaults(run=_announce)

    exclude = commands.add_parser(
        "exclude", parents=[place, reason], help="keep a window of bad data out of every training set"
    )
    exclude.add_argument("dataset", metavar="DATASET")
    exclude.add_argument("--from", dest="start", required=True, metavar="ISO", help="a day, or a moment with its zone")
    exclude.add_argument("--to", dest="end", required=True, metavar="ISO", help="where it ends; not included")
    exclude.set_defaults(run=_exclude)

    accept = commands.add_parser(
        "accept", parents=[place, reason], help="say that a day which its history blocks is real; then clear its task"
    )
    accept.add_argument("dataset", metavar="DATASET", help="of a feature view: features.<view>")
    accept.add_argument("key", metavar="DAY", help="as 2013-02-09")
    accept.set_defaults(run=_accept)

    lift = commands.add_parser("lift", parents=[place, reason], help="end an exclusion")
    lift.add_argument("id", metavar="ID")
    lift.set_defaults(run=_lift)

    listing = commands.add_parser("exclusions", parents=[place], help="list the exclusions of a dataset")
    listing.add_argument("dataset", metavar="DATASET")
    listing.set_defaults(run=_exclusions)

    taints = commands.add_parser("taints", parents=[place], help="list the versions that late data has overtaken")
    taints.add_argument("model", metavar="MODEL")
    taints.set_defaults(run=_taints)

    sources = commands.add_parser(
        "sources", parents=[place], help="for each dataset: complete until when, announced what, excluded what"
    )
    sources.set_defaults(run=_sources)


def _announce(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.data.announcements import announce
    from airflow_mlops.engine.data.sources import require_dataset

    ledger = open_ledger(options)
    require_dataset(ledger, options.dataset)
    said = announce(ledger, options.dataset, options.state, options.reason, who())
    effect = "what trains on it holds" if said.state == "degraded" else "what trains on it goes on"
    print(f"{said.dataset} is announced {said.state} by {said.who}: {effect}.")


def _exclude(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.data.exclusions import check_something_left, exclude, outside
    from airflow_mlops.engine.data.sources import require_dataset

    ledger = open_ledger(options)
    require_dataset(ledger, options.dataset)
    start, end = parse_day_or_moment(options.start, "--from"), parse_day_or_moment(options.end, "--to")
    store = open_store(options, ledger)
    keys, cut = store.keys(options.dataset), store.partitioning(options.dataset)
    check_something_left(ledger, options.dataset, start, end, keys, cut)
    made = exclude(ledger, options.dataset, start, end, options.reason, who())
    print(f"{_line(made)}\n{outside(start, end, keys, cut) or _next(made)}")


def _accept(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.data.checks import accept

    accepted = accept(open_ledger(options), options.dataset, options.key, options.reason, who())
    task = "compute_features" if options.dataset.startswith("features.") else "check"
    print(f"{options.dataset} {options.key} is accepted by {accepted.who}. Clear its task `{task}`, and it goes on.")


def _lift(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.data.exclusions import lift

    lifted = lift(open_ledger(options), options.id, options.reason, who())
    print(f"lifted: {_line(lifted)}\n{_next(lifted)}")


def _exclusions(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.data.exclusions import exclusions
    from airflow_mlops.engine.data.sources import require_dataset

    ledger = open_ledger(options)
    require_dataset(ledger, options.dataset)
    for exclusion in exclusions(ledger, options.dataset):
        print(_line(exclusion))


def _taints(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.data.lateness import require_model, tainted_versions, taints

    ledger = open_ledger(options)
    require_model(ledger, options.model)
    for version, found in sorted(tainted_versions(ledger, options.model).items()):
        for taint in found:
            print(f"version {version}: trained on {taint.dataset} {taint.key} as {taint.old}, which is {taint.new} now")
    if not taints(ledger, options.model):
        print(f"No snapshot of {options.model!r} holds data that was replaced since.")


def _sources(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.data.announcements import announced
    from airflow_mlops.engine.data.exclusions import exclusions
    from airflow_mlops.engine.data.readiness import watermark
    from airflow_mlops.engine.data.sources import known_datasets

    ledger = open_ledger(options)
    store = open_store(options, ledger)
    known = known_datasets(ledger)
    if not known:
        print("The ledger knows no dataset: no partition was sealed yet.")
    for dataset in known:
        keys = store.keys(dataset)
        if not keys:
            print(f"{dataset}: no partitions in {store.root}")
            continue
        until = watermark(store, ledger, dataset, store.partitioning(dataset).interval(keys[0])[0])
        print(f"{dataset}: {len(keys)} partitions from {keys[0]} to {keys[-1]}, without a gap up to {until:%Y-%m-%d}")
        said = announced(ledger, dataset)
        if said is not None:
            print(f"  {said.state} since {said.at:%Y-%m-%d %H:%M} UTC, by {said.who}: {said.reason}")
        for exclusion in exclusions(ledger, dataset):
            print(f"  excluded: {_line(exclusion)}")


def _line(exclusion: Exclusion) -> str:
    window = f"{exclusion.start:%Y-%m-%d %H:%M} to {exclusion.end:%Y-%m-%d %H:%M} UTC"
    return f"{exclusion.id}  {exclusion.dataset}  {window}  by {exclusion.who}: {exclusion.reason}"


def _next(exclusion: Exclusion) -> str:
    """Say what is left to do once an exclusion is made or lifted."""
    first, last = exclusion.start.date(), (exclusion.end - timedelta(microseconds=1)).date()
    return (
        f"Next: airflow-mlops backfill plan PIPELINE --from {first} --to {last}. It says which models learned from "
        f"{exclusion.dataset} of then, and which features are to be computed again."
    )
