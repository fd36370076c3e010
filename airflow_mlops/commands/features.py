# ruff: noqa: T201  a command talks on standard output
"""Features: plan, apply, compute and bring them online; who reads them, who does not, and what they cost."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_mlops.commands.history import add_span, add_workers, in_bulk
from airflow_mlops.commands.place import open_home, open_ledger, open_location, open_store, place_options, repo_option
from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.moments import is_day, parse_day_or_moment

if TYPE_CHECKING:
    from airflow_mlops.engine.features.project.schema import FeatureRepo
    from airflow_mlops.engine.ledger import Ledger


def add_features(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands about features."""
    features = commands.add_parser("features", help="what applying would change, who reads what, what it costs")
    verbs = features.add_subparsers(required=True, metavar="VERB")
    place = place_options()
    place.add_argument("--json", action="store_true", help="print JSON")
    parents, plain = [place, repo_option()], [place_options(), repo_option()]

    plan = verbs.add_parser(
        "plan", parents=parents, help="say what applying the repository would change, and whether it would be refused"
    )
    plan.set_defaults(run=_plan)

    apply = verbs.add_parser("apply", parents=plain, help="register what the repository defines, if nothing breaks")
    apply.set_defaults(run=_apply)

    compute = verbs.add_parser(
        "compute",
        parents=plain,
        help="compute the features of sealed partitions in bulk: missing ones, and those of other code or data",
    )
    add_span(compute, to="today")
    add_workers(compute)
    compute.set_defaults(run=_compute)

    materialize = verbs.add_parser("materialize", parents=plain, help="bring a feature service online")
    materialize.add_argument("service", metavar="SERVICE")
    materialize.add_argument(
        "--until", metavar="ISO", help="end of the last day, or a moment (default: what is computed of all its views)"
    )
    materialize.set_defaults(run=_materialize)

    consumers = verbs.add_parser("consumers", parents=parents, help="list the model versions that read each feature")
    consumers.add_argument("features", nargs="*", metavar="FEATURE", help="view or view:feature (default: all)")
    consumers.set_defaults(run=_consumers)

    unused = verbs.add_parser("unused", parents=parents, help="list the features that nobody uses, and how far not")
    unused.set_defaults(run=_unused)

    cost = verbs.add_parser(
        "cost", parents=parents, help="measure bytes offline and online, and the milliseconds of a read"
    )
    cost.add_argument("views", nargs="*", metavar="VIEW", help="feature views (default: all)")
    cost.set_defaults(run=_cost)

    rebuild = commands.add_parser(
        "rebuild",
        parents=plain,
        help="build a training snapshot again, byte for byte, from what it pinned; or say what is gone or differs",
    )
    rebuild.add_argument("snapshot", metavar="SNAPSHOT", help="its id")
    rebuild.add_argument("--source", required=True, metavar="DATASET", help="sealed dataset with its entities")
    rebuild.add_argument("--labels", required=True, metavar="DATASET", help="sealed dataset with its labels")
    rebuild.set_defaults(run=_rebuild)


def _rebuild(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.data.snapshots import find_snapshot
    from airflow_mlops.engine.features.training.training_data import rebuild_snapshot

    snapshot = rebuild_snapshot(
        open_location(options),
        find_snapshot(open_home(options), options.snapshot),
        store=open_store(options),
        source_dataset=options.source,
        label_dataset=options.labels,
    )
    rows = ", ".join(f"{split.rows:,} {name}" for name, split in snapshot.splits.items())
    print(f"Snapshot {snapshot.id} is, byte for byte, what it was: {rows} rows in {snapshot.uri}")


def _plan(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.features.governance.lint import check_lint
    from airflow_mlops.engine.features.governance.plan import check_served, plan

    found = plan(open_location(options), open_ledger(options, new=True))
    if options.json:
        _dump(found.model_dump(mode="json", exclude={"definitions"}) | {"hash": found.definitions.hash})
    else:
        for line in found.lines():
            print(line)
    check_lint(found.definitions)
    check_served(found)


def _apply(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.features.governance.apply import apply_planned

    _, plan = apply_planned(open_location(options), open_ledger(options, new=True))
    for line in plan.lines():
        print(line)


def _compute(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.history.load import compute_history

    in_bulk(options, compute_history)


def _materialize(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.features.materialization.materialize import computed_until, materialize

    location, ledger = open_location(options), open_ledger(options, new=True)
    os.environ.setdefault("MLOPS_HOME", str(location.home))
    if options.until:
        until = parse_day_or_moment(options.until, "--until")
        until += timedelta(days=1) if is_day(options.until) else timedelta(0)
    else:
        until = computed_until(location, options.service, ledger)
    done = materialize(location, options.service, until=until, ledger=ledger)
    for view, one in done["views"].items():
        what = "was there" if one["start"] is None else f"written from {one['start'][:16]}"
        print(f"{view}: {what}, online up to {one['watermark'][:16]} UTC" if one["online"] else f"{view}: not online")


def _consumers(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.features.governance.consumers import consumers

    ledger = open_ledger(options)
    found = consumers(ledger, _applied(options, ledger))
    for name in options.features:
        views = {feature.partition(":")[0] for feature in found}
        if name not in found and name not in views:
            raise ConfigError(
                f"There is no feature or view {name!r}.{did_you_mean(name, [*found, *views])}",
                detail=f"{len(views)} views: {', '.join(sorted(views))}",
                hint="Write view, or view:feature.",
            )
    chosen = {
        feature: readers
        for feature, readers in found.items()
        if not options.features or {feature, feature.partition(":")[0]} & set(options.features)
    }
    if options.json:
        _dump({name: [one.model_dump(mode="json") for one in readers] for name, readers in chosen.items()})
        return
    _table(["feature", "read by"], ([name, ", ".join(map(str, readers)) or "-"] for name, readers in chosen.items()))


def _unused(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.features.governance.consumers import unused

    ledger = open_ledger(options)
    found = unused(ledger, _applied(options, ledger))
    if options.json:
        _dump([one.model_dump(mode="json") for one in found])
    elif found:
        _table(["feature or view", "because"], ([one.name, "; ".join(one.lacks)] for one in found))
    else:
        print("Every feature is read by a served model.")


def _cost(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.features.governance.consumers import consumers
    from airflow_mlops.engine.features.governance.cost import measure_cost

    ledger = open_ledger(options)
    readers = consumers(ledger, _applied(options, ledger))
    costs = measure_cost(open_location(options), options.views)

    def models(view: str, feature: str) -> list[str]:
        return [str(one) for one in readers.get(f"{view}:{feature}", ())]

    if options.json:
        users = {one.view: {each.feature: models(one.view, each.feature) for each in one.features} for one in costs}
        _dump([{**one.model_dump(mode="json"), "models": users[one.view]} for one in costs])
        return
    rows = []
    for one in costs:
        figures = [_bytes(one.offline_bytes), _bytes(one.online_bytes), _ms(one.online_ms)]
        rows.append([one.view, *figures, f"{one.days} days, {one.rows:,} rows"])
        for each in one.features:
            figures = [_bytes(each.offline_bytes), _bytes(each.online_bytes), _ms(each.online_ms)]
            rows.append([f"  {each.feature}", *figures, ", ".join(models(one.view, each.feature)) or "-"])
        rows.append(["  keys and times", _bytes(one.keys_bytes), "", "", ""])
    _table(["view, feature", "bytes offline", "bytes online", "ms online", "rows, models"], rows)
    for one in costs:
        if one.sampled:
            print(f"{one.view}: bytes online from {one.sampled} entities")
        if one.unknown:
            print(f"{one.view}: {one.unknown}")
    print("ms online: median read of one entity; of a feature, when it alone is asked for.")


def _applied(options: argparse.Namespace, ledger: Ledger) -> FeatureRepo:
    from airflow_mlops.engine.features.governance.apply import last_applied

    location = open_location(options)
    found = last_applied(location, ledger)
    if found is None:
        raise ConfigError(
            "Nothing of this feature repository was applied yet.",
            detail=f"repository {location.repo}, ledger of home {location.home}",
            hint="Run FeastApplyOperator or the features DAG; or name another --ledger.",
        )
    return found


def _table(head: list[str], rows: Iterable[list[str]]) -> None:
    """Print columns: the first and the last are text, those between are figures."""
    lines = [head, *rows]
    first, *figures = (max(len(line[column]) for line in lines) for column in range(len(head) - 1))
    for line in lines:
        cells = [f"{cell:>{width}}" for cell, width in zip(line[1:-1], figures, strict=True)]
        print("  ".join([f"{line[0]:<{first}}", *cells, line[-1]]).rstrip())


def _bytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size:,}"


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _dump(value: Any) -> None:
    print(json.dumps(value, indent=2))
