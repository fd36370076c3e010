"""A plan: what a backfill would do to each partition, what that costs, and who has seen what it replaces.

A plan is frozen. It lies in the ledger, as the fact ``backfill_plan`` (subject: the model, key: the plan's id), and is
approved and executed by its hash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from datetime import date, datetime
from functools import cached_property
from typing import Literal, NamedTuple

from airflow_mlops.contracts import Record, content_hash
from airflow_mlops.engine.history.pace import FEATURES
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import DataError, did_you_mean

FACT = "backfill_plan"
State = Literal["present", "missing", "changed", "unknown", "absent", "excluded"]
WORK = frozenset({"missing", "changed", "unknown"})
Order = Literal["newest", "oldest"]
_ID, _NAMED = 12, 6
_SHORT, _FEW, _CENT = 2, 3, 0.01


class Step(NamedTuple):
    """A partition of a dataset, or the features of one, as the plan found it.

    ``state`` is ``present``; ``missing`` (landed, and not sealed; or features not computed); ``changed`` (other bytes
    have landed than were sealed; or features of other partitions or code than now); ``unknown`` (a table without
    ``updated_at`` does not say whether it changed; or features that read such); ``absent`` (nothing has landed); or
    ``excluded`` (of features: and none were computed; those that were are read by later rows).

    :param dataset: The dataset, or ``features``.
    :param revision: The sealed revision that counts; empty when there is none.
    :param landed: Identity of the names, sizes and times of what has landed; of a table of its rows and their newest
        change. Empty where it does not say.
    :param rows: Rows that are sealed, or likely; None where nothing says.
    :param bytes: Bytes that have landed.
    """

    dataset: str
    key: str
    state: State
    revision: str = ""
    landed: str = ""
    rows: int | None = None
    bytes: int = 0

    @property
    def name(self) -> str:
        """Dataset and key, as people and the ledger call it."""
        return f"{self.dataset} {self.key}"


class Estimate(Record):
    """What a part of a plan takes: minutes of one process, and the interval in which they are likely to lie.

    None is unknown: no load of it is in the ledger.
    """

    partitions: int
    rows: int | None
    bytes: int
    minutes: float | None
    at_least: float | None
    at_most: float | None


class Seen(Record):
    """A model that saw partitions which the plan replaces, or that are excluded: in which snapshots, and which of its
    versions.
    """

    model: str
    partitions: tuple[str, ...]
    snapshots: tuple[str, ...]
    versions: tuple[int, ...]
    serving: dict[int, str]
    """Version → what it is to a server, in words: of those versions only."""


class Plan(Record):
    """A backfill as it was planned. ``first`` and ``last`` are days of the source's zone."""

    model: str
    first: date
    last: date
    order: Order
    ordered: bool
    who: str
    at: datetime
    code: str
    steps: tuple[Step, ...]
    estimates: dict[str, Estimate]
    hourly_price: float
    seen: tuple[Seen, ...]
    approve_above: int

    @cached_property
    def hash(self) -> str:
        """Identity of all that the plan says: what is approved, and what is executed."""
        return content_hash(self.model_dump(mode="json"))

    @property
    def id(self) -> str:
        """The start of the hash: the name of the plan."""
        return self.hash[:_ID]

    @cached_property
    def work(self) -> tuple[Step, ...]:
        """What is to be done, in its order: partitions first, then the features that stand on them."""
        found = [step for step in self.steps if step.state in WORK]
        features = [step for step in found if step.dataset == FEATURES]
        sealing = [step for step in found if step.dataset != FEATURES]
        if self.order == "newest":
            return (*reversed(sealing), *reversed(features))
        return (*sealing, *features)

    @property
    def minutes(self) -> tuple[float, float, float] | None:
        """Minutes of one process in all, with their interval; None when those of a part are unknown."""
        parts = [(one.minutes, one.at_least, one.at_most) for one in self.estimates.values()]
        known = [(a, b, c) for a, b, c in parts if a is not None and b is not None and c is not None]
        if len(known) < len(parts):
            return None
        return sum(one[0] for one in known), sum(one[1] for one in known), sum(one[2] for one in known)

    @property
    def approval(self) -> str:
        """Why a person must approve it, in words; empty when nobody must."""
        why = []
        if len(self.work) > self.approve_above:
            why.append(f"{len(self.work)} partitions are more than {self.approve_above}")
        return "; ".join([*why, *in_use([seen for seen in self.seen if not self.learned(seen)])])

    def learned(self, seen: Seen) -> bool:
        """Return whether it is of excluded partitions that a model saw, and not of what is replaced."""
        return not self._excluded.isdisjoint(seen.partitions)

    @cached_property
    def _excluded(self) -> frozenset[str]:
        return frozenset(step.name for step in self.steps if step.state == "excluded")

    def price_of(self, step: Step) -> str:
        """Return what one partition takes, in words; empty where nothing is to be done."""
        if step.state not in WORK:
            return ""
        known = self.estimates[step.dataset]
        each = [
            None if one is None else one / known.partitions for one in (known.minutes, known.at_least, known.at_most)
        ]
        rows = "" if step.rows is None else f"{step.rows:,} rows, "
        size = "" if step.dataset == FEATURES else f"{rows}{step.bytes:,} bytes; "
        return size + took(*each) + self._money(*each)

    def lines(self) -> list[str]:
        """Say it in words."""
        end = f", {self.order} first" + (", in order" if self.ordered else "")
        lines = [f"Backfill {self.id} of {self.model}, {self.first} to {self.last}{end}."]
        datasets = dict.fromkeys(step.dataset for step in self.steps)
        lines += [f"{one}: {in_words([step for step in self.steps if step.dataset == one])}" for one in datasets]
        if not self.work:
            return [*lines, *map(self._who, self.seen), "Nothing is to be done."]
        for dataset, one in self.estimates.items():
            rows = "rows unknown" if one.rows is None else f"about {one.rows:,} rows"
            size = "" if dataset == FEATURES else f", {rows}, {one.bytes:,} bytes"
            lines.append(
                f"price of {dataset}: {one.partitions} partitions{size}; {took(one.minutes, one.at_least, one.at_most)}"
            )
        lines.append(f"price in all: {self._price()}")
        lines += map(self._who, self.seen)
        if all(map(self.learned, self.seen)):
            lines.append("No model saw what is replaced.")
        return [*lines, f"approval: {f'needed: {self.approval}' if self.approval else 'not needed'}"]

    def _who(self, seen: Seen) -> str:
        what = "learned from what is excluded" if self.learned(seen) else "saw what is replaced"
        serves = "".join(f"; version {version} {role}" for version, role in seen.serving.items())
        versions = ", ".join(map(str, seen.versions)) or "none"
        return (
            f"{seen.model} {what}: {few(seen.partitions)}; in {len(seen.snapshots)} snapshots "
            f"({few(seen.snapshots)}), of which versions were made: {versions}{serves}"
        )

    def _price(self) -> str:
        if self.minutes is None:
            return "unknown; the probe says how long it takes"
        words = "{} of one process ({} to {})".format(*map(spell, self.minutes))
        return words + self._money(*self.minutes)

    def _money(self, *minutes: float | None) -> str:
        costs = [self.hourly_price * one / 60 for one in minutes if one is not None]
        if not self.hourly_price or not costs:
            return ""
        likely, *interval = (f"{one:.2f}" if one >= _CENT else f"{one:.4f}" for one in costs)
        return f"; {likely} ({' to '.join(interval)})"


def in_words(steps: Sequence[Step]) -> str:
    """Return how many partitions are in which state, and which those are that are not present."""
    groups = Counter(step.state for step in steps)
    return ", ".join(
        f"{count} {state}"
        + ("" if state == "present" else f" ({few([step.key for step in steps if step.state == state])})")
        for state, count in groups.items()
    )


def spell(minutes: float) -> str:
    """Return minutes in words."""
    if minutes >= _SHORT:
        return f"{minutes:.0f} minutes"
    seconds = 60 * minutes
    return f"{seconds:.1f} seconds" if seconds < _FEW else f"{seconds:.0f} seconds"


def in_use(seen: Sequence[Seen], besides: Container[tuple[str, int]] = ()) -> list[str]:
    """Say which versions that are in use saw what is replaced.

    :param besides: Models and versions that need not be said.
    """
    return [
        f"version {version} of {one.model}, which {role}, saw what is replaced"
        for one in seen
        for version, role in one.serving.items()
        if (one.model, version) not in besides
    ]


def keep(ledger: Ledger, plan: Plan) -> None:
    """Write a plan down."""
    ledger.record(FACT, plan.model, plan.model_dump(mode="json"), key=plan.id)


def find(ledger: Ledger, name: str) -> Plan:
    """Return a plan.

    :param name: Its id or its hash.
    :raises DataError: when there is none of that name.
    """
    found = ledger.facts(FACT, key=name[:_ID], limit=1)
    plan = Plan.model_validate(found[0].payload) if found else None
    if plan is None or not plan.hash.startswith(name):
        known = [fact.key for fact in ledger.facts(FACT, limit=_NAMED)]
        raise DataError(
            f"There is no plan {name!r} of a backfill.{did_you_mean(name, known)}",
            detail=f"the latest: {', '.join(known) or 'none'}",
            hint="Make one with `airflow-mlops backfill plan`; it prints its name.",
        )
    return plan


def few(names: Sequence[str]) -> str:
    """Join names, and only count those after the first."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if names[_NAMED:] else "")


def took(minutes: float | None, at_least: float | None, at_most: float | None) -> str:
    """Return minutes of one process with their interval, in words."""
    if minutes is None or at_least is None or at_most is None:
        return "time unknown: none was ever loaded"
    return f"{spell(minutes)} ({spell(at_least)} to {spell(at_most)})"
