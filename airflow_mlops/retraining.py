"""When a model is trained again, as a piece of a :class:`~airflow_mlops.pipeline.ModelPipeline`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.problems import METRICS
from airflow_mlops.typed import Duration, part

_SOME_DAY = datetime(2024, 1, 1, tzinfo=UTC)
_RUNS = 60
"""How many runs of a schedule are looked at for its shortest interval: two months of a daily one."""


@part
class Rollup:
    """Partitions that are trained on together: all of a week, or enough of them.

    ::

        Retrain(rollup=Rollup("weekly", minimum=5, deadline="2d"), cooldown="1d")

    starts a training when all seven days of a week are there; two days after its end, five are enough.

    :param every: What is trained on together: a day of an hourly source, a ``weekly`` or ``monthly`` of a daily one, in
        the zone of the source.
    :param minimum: So many partitions are enough, counted from the first of the period on up to the first that is
        missing, as nothing later can be trained on; one that a person excluded counts. None: all.
    :param deadline: How long after the end of a period all are waited for; then ``minimum`` are enough. None:
        ``minimum`` are enough at once.
    """

    every: Literal["daily", "weekly", "monthly"] = "weekly"
    minimum: Annotated[int, Field(gt=0)] | None = None
    deadline: Duration | None = None

    def __post_init__(self) -> None:
        said = f"Rollup({self.every!r}, minimum={self.minimum}, deadline={self.deadline!r})"
        if self.deadline is not None and self.minimum is None:
            raise ConfigError(
                "There is a deadline, and nothing says what is enough then.",
                detail=said,
                hint="Say how many partitions are: minimum=5; or leave deadline out, and all are waited for.",
            )
        if self.deadline is not None and parse_duration(self.deadline) >= self.interval:
            raise ConfigError(
                "The deadline is as long as the period: the next one has ended before it.",
                detail=said,
                hint="Shorten the deadline.",
            )

    @property
    def interval(self) -> timedelta:
        """The shortest of the periods."""
        return timedelta(days={"daily": 1, "weekly": 7, "monthly": 28}[self.every])

    @property
    def longest(self) -> timedelta:
        """The longest time from one training to the next."""
        return timedelta(days={"daily": 1, "weekly": 7, "monthly": 31}[self.every]) + (
            parse_duration(self.deadline) if self.deadline else timedelta(0)
        )

    def check(self, model: str, cut: str) -> None:
        """Refuse partitions that make up no such period, and a minimum that is none.

        :param cut: How the model's source is cut: ``daily``.
        :raises ConfigError: when it cannot be.
        """
        counts = {("hourly", "daily"): 24, ("daily", "weekly"): 7, ("daily", "monthly"): 28}
        count = counts.get((cut, self.every))
        if count is None:
            fits = [every for one, every in counts if one == cut]
            raise ConfigError(
                f"Partitions of {model!r} are {cut}, and are not rolled up to {self.every} ones.",
                detail=f"Retrain(rollup=Rollup({self.every!r}))",
                hint=f"Write Rollup({' or '.join(map(repr, fits))})." if fits else "Write cron= instead.",
            )
        if self.minimum is not None and self.minimum >= count:
            raise ConfigError(
                f"A minimum of {self.minimum} partitions is no less than all of them.",
                detail=f"Retrain(rollup=Rollup({self.every!r}, minimum={self.minimum})) of {cut} partitions: {count}",
                hint="Lower it; or leave it and the deadline out, and all are waited for.",
            )


@part
class Retrain:
    """When a new challenger is trained. Everything that asks for one goes through one ledger of requests.

    With more than a cron there is a DAG ``<model>.retrain`` that looks every quarter of an hour whether one of these
    asks for a training, and starts ``<model>.train``. What the last training has seen asks for nothing.

    :param cron: Cron expression or preset such as ``@weekly``; None: no schedule.
    :param new_rows: So many new rows whose labels have matured.
    :param drift_psi: Population stability index of a column of the last week of data against what the serving version
        was trained on, such as 0.2.
    :param decay: Metric, and by how much it may become worse on matured labels: ``("auc", 0.02)``. It is measured on
        what ``<model>.batch_predict`` predicted.
    :param on_new_features: Whether a new version or definition of the feature service asks for a training.
    :param on_assets: Names of Airflow assets whose events do.
    :param rollup: Partitions that are trained on together, such as all of a week; instead of ``cron``.
    :param cooldown: Least time between the starts of two trainings that nobody asked for by hand.
    :param max_age: How old the data of the version that serves may become before the pipeline's notifiers are told.
    """

    cron: str | None = None
    new_rows: Annotated[int, Field(gt=0)] | None = None
    drift_psi: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    decay: Annotated[
        tuple[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None,
        BeforeValidator(lambda given: tuple(given) if isinstance(given, list) else given),  # as YAML has it
    ] = None
    on_new_features: bool = False
    on_assets: Sequence[Annotated[str, Field(min_length=1)]] = ()
    rollup: Rollup | None = None
    cooldown: Duration | None = None
    max_age: Duration | None = None

    def __post_init__(self) -> None:
        if self.cron is not None:
            next(fires(self.cron, _SOME_DAY))
        if self.decay is not None and self.decay[0] not in METRICS:
            raise ConfigError(
                f"Decay of an unknown metric {self.decay[0]!r}.{did_you_mean(self.decay[0], METRICS)}",
                hint=f"Metrics: {', '.join(METRICS)}.",
            )
        if self.triggers and self.cooldown is None:
            raise ConfigError(
                "Nothing says how often this may train.",
                detail=f"Retrain({', '.join(f'{name}=...' for name in self.triggers)}) without a cooldown",
                hint='A trigger can hold for days, and ask all the time: write cooldown="1d".',
            )
        if self.cooldown is not None:
            self._check_cooldown(parse_duration(self.cooldown))
        if self.cron is not None and self.rollup is not None:
            raise ConfigError(
                "Two things say when it is trained: the clock, and the data of a period.",
                detail=f"Retrain(cron={self.cron!r}, rollup=Rollup({self.rollup.every!r}))",
                hint="Leave one of them out: with both, the same data is trained on twice.",
            )
        if twice := next((name for name in self.on_assets if list(self.on_assets).count(name) > 1), None):
            raise ConfigError(f"Asset {twice!r} is there twice in Retrain(on_assets=...).", hint="Leave one out.")
        if self.max_age is not None and self.cooldown is not None:
            self._check_age(parse_duration(self.max_age), parse_duration(self.cooldown))

    def _check_cooldown(self, cooldown: timedelta) -> None:
        if not self.triggers:
            raise ConfigError(
                "There is a cool-down, and nothing that it would cool.",
                detail=f"Retrain(cron={self.cron!r}, cooldown={self.cooldown!r})",
                hint="A cron says itself how often it trains, and what is asked for by hand does not wait: leave "
                "cooldown out, or name a trigger such as new_rows or drift_psi.",
            )
        if self.rollup is not None and cooldown >= self.rollup.interval:
            raise ConfigError(
                "The cool-down is as long as the period that is trained on: it would keep back the next one.",
                detail=f"cooldown={self.cooldown!r}, rollup=Rollup({self.rollup.every!r})",
                hint="Shorten the cool-down.",
            )
        if self.cron is not None and cooldown >= (often := shortest_interval(self.cron)):
            raise ConfigError(
                "The cool-down is as long as the schedule's interval: between its runs nothing else could ever train.",
                detail=f"cooldown={self.cooldown!r}, cron={self.cron!r} runs every {often}",
                hint="Shorten the cool-down, or let the cron run less often.",
            )

    def _check_age(self, max_age: timedelta, cooldown: timedelta) -> None:
        if self.cron is None and cooldown >= max_age:
            raise ConfigError(
                "The cool-down is as long as what serves may be old: it must become too old.",
                detail=f"cooldown={self.cooldown!r}, max_age={self.max_age!r}",
                hint="Shorten the cool-down, or allow more.",
            )

    @property
    def triggers(self) -> tuple[str, ...]:
        """The arguments beside ``cron`` that ask for a training."""
        named = ("new_rows", "drift_psi", "decay", "on_new_features", "on_assets", "rollup")
        return tuple(name for name in named if getattr(self, name))

    @property
    def watched(self) -> bool:
        """Whether there is anything to look at between the runs of the cron."""
        return bool(self.triggers or self.max_age)


def fires(cron: str, after: datetime) -> Iterator[datetime]:
    """Return the runs of a schedule after a moment.

    :raises ConfigError: when it is no cron expression, or never runs.
    """
    from croniter import CroniterBadDateError, croniter

    if not croniter.is_valid(cron):
        raise ConfigError(
            f"{cron!r} is not a cron expression.",
            detail=f"Retrain(cron={cron!r})",
            hint="Write minute, hour, day, month and weekday, such as '0 6 * * 0', or a preset such as '@weekly'.",
        )
    runs = croniter(cron, after, ret_type=datetime)
    try:
        while True:
            yield runs.get_next()
    except CroniterBadDateError:
        raise ConfigError(
            f"The schedule {cron!r} never runs.",
            detail=f"Retrain(cron={cron!r}): there is no such day",
            hint="See the day and the month: the last day of a month is 'L', as in '0 6 L * *'.",
        ) from None


def shortest_interval(cron: str) -> timedelta:
    """Return the shortest time between two of the next runs of a schedule."""
    runs = fires(cron, _SOME_DAY)
    first, found = next(runs), []
    for run in (next(runs) for _ in range(_RUNS)):
        found.append(run - first)
        first = run
    return min(found)
