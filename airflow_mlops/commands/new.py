# ruff: noqa: T201  a command talks on standard output
"""``airflow-mlops new``: look at a table, say what was found, and write a project that predicts one of its columns."""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.commands.place import who
from airflow_mlops.exceptions import ConfigError, DataError, MlopsError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_mlops.engine.survey.columns import Survey
    from airflow_mlops.project.plan import Bounds, Plan

_SHOWN = 40


def add_new(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    new = commands.add_parser(
        "new", help="look at a table, and write a project that predicts one of its columns: pipeline, features, model"
    )
    new.add_argument("name", metavar="NAME", help="of the model and of the folder, such as shop_returns")
    new.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="SOURCE",
        help="a file or a folder, s3://CONNECTION@BUCKET/PREFIX, or a table: postgres://CONNECTION/TABLE",
    )
    new.add_argument("--time", metavar="COLUMN", help="when a row happened, and is predicted")
    new.add_argument("--entity", metavar="COLUMN", help="what names a row, such as order_id")
    new.add_argument("--label", metavar="COLUMN", help="what is predicted")
    new.add_argument(
        "--known-at", default="", metavar="COLUMN", help="when the label became known (default: what looks like it)"
    )
    new.add_argument(
        "--key", default="", metavar="COLUMN", help="what rows share, and have a history by (default: what looks best)"
    )
    new.add_argument(
        "--problem", default="", choices=["binary", "multiclass", "regression"], help="default: by the label's type"
    )
    new.add_argument(
        "--model",
        default="keras",
        choices=["keras", "boosted"],
        help="a small neural network, or gradient-boosted trees (default: %(default)s)",
    )
    new.add_argument("--timezone", default="UTC", metavar="ZONE", help="of days, and of times without a zone")
    new.add_argument("--reader", type=json.loads, default={}, metavar="JSON", help="options for CSV, as in Partitions")
    new.set_defaults(run=_new)


def _new(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.survey.columns import survey
    from airflow_mlops.engine.survey.subjects import entities, labels
    from airflow_mlops.project.plan import check_name, decide
    from airflow_mlops.project.sources import how_to_read, open_source
    from airflow_mlops.project.write import check_free, write

    folder = Path(options.name)
    check_free(folder)
    check_name(options.name)
    with _as_options(), open_source(options.source, options.timezone, options.reader) as source:
        print(source.said)
        if source.empty:
            raise DataError("There are no rows.", detail=options.source, hint="Name data that has some: --from.")
        time = options.time or _chosen("time", "When did a row happen?", source.times, how_to_read(source.columns))
        rows = source.rows(time)
        entity = options.entity or _chosen("entity", "What names a row?", entities(rows))
        label = options.label or _chosen("label", "What is to be predicted?", labels(rows, [time, entity]))
        found = survey(
            rows,
            entity=entity,
            time=time,
            label=label,
            known_at=options.known_at,
            problem=options.problem or _problem_of(rows, label),
            key=options.key,
        )
        _say(found, source.bounds)
        made = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(made, ignore_errors=True)
        try:
            feed, found, why = source.feed(found, made)
            plan = decide(options.name, options.source, feed, found, source.bounds, model=options.model, owner=who())
            write(plan, made)
            made.rename(folder)
        except OSError as error:
            raise ConfigError(
                "The project cannot be written.",
                detail=f"{folder.absolute()}: {error.strerror or error}",
                hint="Call it where you may write, with room for what is copied.",
            ) from None
        finally:
            shutil.rmtree(made, ignore_errors=True)
    print(f"\nThe rows are {why}.")
    if plan.cut_off:
        print(f"The last partition is not whole, it has {plan.cut_off}: the project ends with {plan.last}.")
    _say_next(plan)


@contextmanager
def _as_options() -> Iterator[None]:
    """Have errors name the option of the command in place of the argument of a pipeline."""
    try:
        yield
    except MlopsError as error:
        error.hint = re.sub(
            r"Partitions\(reader=({[^\[\]]+?})\)",
            lambda said: f"--reader {shlex.quote(json.dumps(ast.literal_eval(said[1])))}",
            error.hint,
        )
        raise


def _chosen(option: str, question: str, possible: Sequence[str], hint: str = "") -> str:
    """Ask on a terminal for a column; take the only one there is; else say what to write.

    :param hint: What to do when no column can be it, if that is known.
    :raises ConfigError: when nobody can be asked, or no column can be it.
    """
    if not possible:
        raise ConfigError(
            f"No column can be the {option}.",
            detail={
                "time": "none is of times",
                "entity": "none has another value in every row",
                "label": "none has a few values, and at least two",
            }[option],
            hint=hint
            or {
                "time": "Without the time of a row nobody can say what was known before it. Add a column of times, as "
                "ISO 8601 writes them: 2024-01-15 10:00:00. A table that has none is trained on by single operators: "
                "docs/tutorial-operators.md.",
                "entity": "Add a column that numbers the rows, such as order_id.",
                "label": "Name one that is a number: --label.",
            }[option],
        )
    if len(possible) == 1 and option != "label":
        print(f"{question} {possible[0]}")
        return possible[0]
    if not sys.stdin.isatty():
        raise ConfigError(
            f"Which column is the {option}?",
            detail=f"it could be: {', '.join(possible[:_SHOWN])}",
            hint=f"Name it: --{option} {possible[0]}",
        )
    return _answer(f"{question} ({', '.join(possible[:_SHOWN])}) ", possible)


def _answer(question: str, possible: Sequence[str]) -> str:
    try:
        while (answer := input(question).strip()) not in possible:
            print(f"{answer!r} is none of them.{did_you_mean(answer, possible)}")
    except EOFError:
        raise KeyboardInterrupt from None
    return answer


def _problem_of(rows: pa.Table, label: str) -> str:
    """Ask on a terminal what whole numbers are; elsewhere nothing is said."""
    from pyarrow import types

    from airflow_mlops.problems import PROBLEMS

    if label not in rows.column_names or not types.is_integer(rows[label].type) or not sys.stdin.isatty():
        return ""
    if PROBLEMS["binary"].claims(rows[label]):
        return ""
    return _answer(f"Are the whole numbers of {label} classes, or amounts? ", ["multiclass", "regression"])


def _say(found: Survey, bounds: Bounds) -> None:
    """Say what was found of each column, and of the label."""
    from airflow_mlops.engine.survey.times import usual_begin

    print(f"{bounds.rows:,} rows from {bounds.first:%Y-%m-%d} to {bounds.last:%Y-%m-%d}")
    if begin := usual_begin(found.rows, found.time):
        print(f"Nearly all of them are from after {begin}: are the times before right?")
    print()
    wide = max(len(one.name) for one in found.columns[:_SHOWN])
    print(f"{'column':{wide}}  {'type':12} missing  different  taken as")
    for one in found.columns[:_SHOWN]:
        kind = str(one.type).partition("[")[0]
        said = "; ".join(filter(None, [one.use or "left out", one.why]))
        print(f"{one.name:{wide}}  {kind:12} {one.missing:7.1%}  {one.distinct:9,}  {said}")
    if len(found.columns) > _SHOWN:
        print(f"… and {len(found.columns) - _SHOWN} more: see the README of the project")
    usual = {
        "binary": f"{found.label_rate:.1%} are true",
        "multiclass": f"{len(found.classes)} classes; {found.label_rate:.1%} are {''.join(found.classes[:1])!r}",
        "regression": f"{found.label_rate:.4g} on average",
    }[found.problem.name]
    print(f"\nlabel {found.label}: {found.problem.name}, {usual}, {found.of(found.label).missing:.1%} not known")
    days = found.matures_after.days
    if found.known_at:
        print(f"It is known from {found.known_at} on: {days} days later at the latest.")
    else:
        print(f"No column says when it is known. Taken as: {days} days later. Is that so? Name a column by --known-at.")
    whose = f"by {found.key}" if found.key else "of all together"
    print(f"History: {whose}, how many rows there were before, and what became of them.")
    if not found.key:
        print("No column repeats its values. If rows share something, such as a customer, name it by --key.")


def _say_next(plan: Plan) -> None:
    print(
        f"""
Written to {plan.name}/. Read its README.md; then:

cd {plan.name}
airflow-mlops stack up --until-served"""
    )
