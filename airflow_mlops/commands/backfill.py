# ruff: noqa: T201  a command talks on standard output
"""``airflow-mlops backfill``: plan work on the past, execute it, see how far it is, end it, undo it."""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from typing import TYPE_CHECKING

from airflow_mlops.commands.history import add_span, add_workers, load_pipeline
from airflow_mlops.commands.place import (
    open_home,
    open_ledger,
    open_location,
    open_store,
    place_options,
    repo_option,
    use_laptop_connections,
    who,
)
from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    from airflow_mlops.engine.backfill.plan import Plan
    from airflow_mlops.engine.backfill.survey import Site
    from airflow_mlops.engine.ledger import Ledger

_A_SHARE = 100


def add_backfill(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command with its verbs."""
    backfill = commands.add_parser("backfill", help="work on partitions of the past: plan, run, status, cancel")
    verbs = backfill.add_subparsers(required=True, metavar="VERB")
    place, repo = place_options(), repo_option()

    plan = verbs.add_parser(
        "plan", parents=[place, repo], help="say what there is to do, what it costs and who saw it; changes nothing"
    )
    add_span(plan, to="the last that has ended")
    plan.add_argument("--newest-first", action="store_true", help="begin with the newest partition")
    plan.add_argument("--ordered", action="store_true", help="a partition that is refused stops those after it")
    plan.add_argument("--list", action="store_true", help="list every partition with its state")
    plan.set_defaults(run=_plan)

    run = verbs.add_parser(
        "run", parents=[place, repo], help="execute a plan; again: goes on; exits with 1 unless all is as planned"
    )
    run.add_argument("pipeline", metavar="PIPELINE", help="DAG file and name, such as dags/churn.py:churn")
    run.add_argument("plan", metavar="PLAN", help="its name, as `plan` prints it")
    run.add_argument("--approve", metavar="HASH", help="you saw the plan with this hash, and answer for it")
    run.add_argument(
        "--retrain", action="store_true", help="ask for a training of each model that saw what is replaced"
    )
    add_workers(run)
    run.set_defaults(run=_run)

    status = verbs.add_parser("status", parents=[place], help="say how far a plan is")
    status.add_argument("plan", metavar="PLAN", nargs="?", help="its name (default: list the latest plans)")
    status.set_defaults(run=_status)

    back = verbs.add_parser(
        "undo", parents=[place, repo], help="let count again what a plan replaced, and compute its features anew"
    )
    back.add_argument("pipeline", metavar="PIPELINE", help="DAG file and name, such as dags/churn.py:churn")
    back.add_argument("plan", metavar="PLAN", help="its name")
    back.add_argument("--approve", metavar="HASH", required=True, help="you saw what the plan with this hash did")
    back.set_defaults(run=_undo)

    end = verbs.add_parser("cancel", parents=[place], help="end a plan that runs, or died; what is done stays")
    end.add_argument("plan", metavar="PLAN")
    end.set_defaults(run=_cancel)


def _plan(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.backfill.make import plan_backfill
    from airflow_mlops.operators.backfill import approve_above, price_per_hour

    site = _site(options)
    plan = plan_backfill(
        site,
        options.first,
        options.last,
        who=who(),
        order="newest" if options.newest_first else "oldest",
        ordered=options.ordered,
        hourly_price=price_per_hour(),
        approve_above=approve_above(),
    )
    print(*plan.lines(), sep="\n")
    if options.list:
        for step in plan.steps:
            print(f"{step.name}  {step.state}  {step.revision or '-'}  {plan.price_of(step)}".rstrip())
    if plan.work:
        approve = f" --approve {plan.hash}" if plan.approval else ""
        print(f"\nTo execute it: airflow-mlops backfill run {options.pipeline} {plan.id}{approve}")


def _run(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.backfill.run import approve, begin, eta, execute, probe
    from airflow_mlops.engine.backfill.shares import in_shares
    from airflow_mlops.engine.backfill.verify import verify

    site, began = _site(options), time.monotonic()
    plan = _plan_of(site, options)
    if options.approve:
        approve(site.ledger, plan, options.approve, who())
    begin(site, plan)
    print(probe(site, plan))
    for steps in in_shares(plan, _A_SHARE):
        execute(site, plan, steps, workers=options.workers)
        print(eta(site.ledger, plan))
    found = verify(site, plan, retrain=options.retrain)
    print(*found.lines(), f"{time.monotonic() - began:.0f} s", sep="\n")
    found.check()


def _status(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.backfill.plan import FACT, find
    from airflow_mlops.engine.backfill.run import approved_by, eta, outcomes
    from airflow_mlops.engine.backfill.verify import told

    ledger = open_ledger(options)
    if options.plan is None:
        facts = ledger.facts(FACT, limit=20)
        for fact in facts:
            print(_line(ledger, find(ledger, fact.key)))
        if not facts:
            print("No backfill was ever planned.")
        return
    plan = find(ledger, options.plan)
    print(*plan.lines(), f"hash: {plan.hash}", _line(ledger, plan), sep="\n")
    if plan.approval:
        print(f"approved by: {approved_by(ledger, plan) or 'nobody'}")
    if plan.work:
        print(eta(ledger, plan))
    for name, one in outcomes(ledger, plan).items():
        if one.refused:
            print(f"refused: {name}: {one.refused}")
    print(*told(ledger, plan), sep="\n")


def _undo(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.backfill.undo import undo

    site = _site(options)
    plan = _plan_of(site, options)
    print(*undo(site, plan, options.approve, who()).lines(), sep="\n")


def _cancel(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.backfill.plan import find
    from airflow_mlops.engine.backfill.run import cancel

    ledger = open_ledger(options)
    plan = find(ledger, options.plan)
    cancel(ledger, plan, who())
    print(f"Backfill {plan.id} of {plan.model} is cancelled: it stops after the partition it is at.")


def _line(ledger: Ledger, plan: Plan) -> str:
    from airflow_mlops.engine.backfill.run import remaining, state_of
    from airflow_mlops.engine.backfill.verify import as_planned

    left = len(remaining(ledger, plan))
    unlike = "" if as_planned(ledger, plan) else ", not all is as planned"
    return (
        f"{plan.id}  {plan.at:%Y-%m-%d %H:%M} UTC  {plan.model}  {plan.first} to {plan.last}  by {plan.who}  "
        f"{state_of(ledger, plan)}, {len(plan.work) - left} of {len(plan.work)} done{unlike}"
    )


def _plan_of(site: Site, options: argparse.Namespace) -> Plan:
    from airflow_mlops.engine.backfill.plan import find

    plan = find(site.ledger, options.plan)
    if plan.model != site.pipeline.model:
        raise ConfigError(
            f"Plan {plan.id} is of {plan.model!r}, and {options.pipeline} is {site.pipeline.model!r}.",
            hint="Name the pipeline that it was made with.",
        )
    return plan


def _site(options: argparse.Namespace) -> Site:
    from airflow_mlops.engine.backfill.survey import Site
    from airflow_mlops.hooks.databases import database
    from airflow_mlops.operators.base import beneath

    folder, pipeline = load_pipeline(options.pipeline)
    home, ledger = open_home(options), open_ledger(options, new=True)
    use_laptop_connections(home)
    os.environ.setdefault("MLOPS_HOME", str(home))
    return Site(
        pipeline=pipeline,
        location=open_location(options),
        store=open_store(options, ledger),
        ledger=ledger,
        code_path=str(folder),
        locate=partial(beneath, home),
        databases=database,
    )
