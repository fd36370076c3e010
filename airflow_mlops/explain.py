"""What a pipeline does, in words: what it predicts, what it reads and when, what starts a training, what blocks what.

Nothing here imports Airflow or a machine-learning library.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_mlops.durations import parse_duration
from airflow_mlops.feeds import Feed, Partitions, SQLSource

if TYPE_CHECKING:
    from airflow_mlops.fleet import Fleet
    from airflow_mlops.parts import Gate
    from airflow_mlops.pipeline import ModelPipeline
    from airflow_mlops.retraining import Rollup

_WIDTH = 100
_SIZES = {"hourly": "hour", "daily": "day", "weekly": "week", "monthly": "month"}


def explain(pipeline: ModelPipeline) -> str:
    """Return in words what a pipeline does, when, and what holds it up."""
    sections = {
        "What it predicts": _predicts(pipeline),
        "Data": (line for feed in pipeline.feeds for line in _feed(feed)),
        "Features": _features(pipeline),
        "Training": _training(pipeline),
        "What a challenger must meet": _gates(pipeline),
        "Serving": _serving(pipeline),
        "What blocks what": _blocks(pipeline),
    }
    return f"{pipeline.model}\n\n" + "\n\n".join(
        "\n".join([heading, *(_wrapped(line) for line in lines)]) for heading, lines in sections.items()
    )


def explain_fleet(fleet: Fleet) -> str:
    """Return in words which members a fleet has, what is wrong with some, and which is the first."""
    made, faults = fleet.pipelines()
    models = [one.model for one in made.values()]
    lines = [f"{len(made)} pipelines: {', '.join(models) or 'none'}. Each is explained by its member's name."]
    lines += [f"{fleet.model_of(member)} has no DAGs: {fault.headline}" for member, fault in faults.items()]
    if fleet.first:
        first, cron = fleet.model_of(fleet.first), fleet.base.retrain.cron
        others = [model for model in models if model != first]
        lines.append(
            f"{fleet.base.model}.rollout starts {f'{_cron(cron)} and ' if cron else ''}by hand: it trains {first}, and "
            f"once the version that came of it serves, {_listed(others, 'and') if others else 'nobody else'}."
        )
    return "\n".join([fleet.base.model, "", *(_wrapped(line) for line in lines)])


def _wrapped(line: str) -> str:
    return textwrap.fill(line, _WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False)


def _predicts(pipeline: ModelPipeline) -> Iterator[str]:
    label = pipeline.label
    kind = f"a {label.problem} label" if label.problem else "its type follows from the column"
    yield (
        f"For each {pipeline.entity} of {pipeline.source.dataset}, at its {pipeline.source.event_time}: "
        f"{label.column} ({kind})."
    )
    for name, problem in label.heads.items():
        yield f"Beside it {name} ({problem or 'its type follows from the column'})."
    since = f"known since {label.known_at}, in the same row" if label.source is None else f"from {label.source.dataset}"
    yield (
        f"The label comes {since}. A row counts for training {_words(label.matures_after)} after its time, and only if "
        "its label is known then."
    )


def _feed(feed: Feed) -> Iterator[str]:
    cut, size = feed.partitioning, _SIZES[feed.partitioning.every]
    until = f" to {feed.end}" if feed.end else ""
    if isinstance(feed, SQLSource):
        what = f"table {feed.table}" if feed.table else "a query"
        yield (
            f"{feed.dataset}: {what} of connection {feed.conn_id}, one {size} ({cut.timezone}) a run from {feed.start}"
            f"{until}."
        )
    elif isinstance(feed, Partitions):
        told = {
            "marker": f"its marker {feed.marker or '_SUCCESS'} is there",
            "manifest": f"all files of its manifest {feed.marker} are there",
            "still": f"its files have not changed for {_words(feed.still_for)}",
            "event": f"the asset {feed.asset} says so",
        }[str(feed.arrived)]
        yield (
            f"{feed.dataset}: files in {feed.uri}/{feed.layout}, one {size} ({cut.timezone}) a run from {feed.start}"
            f"{until}. A {size} is complete when {told}."
        )
        if feed.lands_within:
            yield f"{feed.dataset} is late {_words(feed.lands_within)} after the end of its {size}."
    named = [f"the suite {feed.suite}", *([f"the contract {feed.checks.contract}"] if feed.checks.contract else [])]
    named.append(f"its own {_words(feed.checks.history)} before")
    yield f"{feed.dataset} is held against {_listed(named, 'and')}."


def _features(pipeline: ModelPipeline) -> Iterator[str]:
    features, size = pipeline.features, _SIZES[pipeline.source.partitioning.every]
    yield (
        f"{pipeline.model}.features runs once a {size}, for the {size} that ended: {features.transform} computes the "
        f"rows of the {size}, looking back {_words(features.history)}, and they go online."
    )
    yield f"Served features may be {_words(features.max_age)} old."


def _training(pipeline: ModelPipeline) -> Iterator[str]:
    train, cron = pipeline.train, pipeline.retrain.cron
    how = train.entrypoint or train.fit or train.script
    yield (
        f"{pipeline.model}.train starts {_cron(cron)} and by hand."
        if cron
        else f"{pipeline.model}.train starts by hand."
    )
    yield from _asked(pipeline)
    matures, held = parse_duration(pipeline.label.matures_after), parse_duration(train.validation)
    test, window = parse_duration(train.test), parse_duration(train.window)
    if train.split == "time":
        yield (
            f"A training at noon of a day T learns from rows of T-{_days(matures + window)} to "
            f"T-{_days(matures + held + test)}; it stops early on those to T-{_days(matures + test)}, is measured on "
            f"those to T-{_days(matures)}. Younger rows have no matured label."
        )
    else:
        yield (
            f"A training learns from the {_words(train.window)} whose labels have matured; by a hash of "
            f"{train.split_column}, a share goes to validation and to the test."
        )
    yield f"{how} trains for at most {train.epochs} epochs and {_words(train.timeout)}, with seed {train.seed}."


def _asked(pipeline: ModelPipeline) -> Iterator[str]:
    """Say what asks for a training beside the schedule."""
    retrain, name = pipeline.retrain, pipeline.model
    asking = [
        *([_rolled(retrain.rollup)] if retrain.rollup else []),
        *([f"{retrain.new_rows:,} new rows have matured labels"] if retrain.new_rows else []),
        *([f"a column has drifted by a PSI of {retrain.drift_psi:g}"] if retrain.drift_psi else []),
        *([f"{retrain.decay[0]} is {retrain.decay[1]:g} worse on matured labels"] if retrain.decay else []),
        *(["the feature service is another one"] if retrain.on_new_features else []),
        *(f"the asset {asset} has an event" for asset in retrain.on_assets),
    ]
    if asking:
        yield f"{name}.retrain looks every quarter of an hour, and starts it when {_listed(asking, 'or')}."
    if retrain.cooldown:
        yield f"Between two such starts are at least {_words(retrain.cooldown)}. `airflow-mlops why {name}` says why."
    if retrain.max_age:
        alarm = "Whoever is notified is told" if pipeline.notify else f"Nobody is notified: {name}.retrain fails"
        yield f"{alarm} when the data of what serves is older than {_words(retrain.max_age)}."


def _rolled(rollup: Rollup) -> str:
    """Say which partitions are trained on together."""
    period = {"daily": "day", "weekly": "week", "monthly": "month"}[rollup.every]
    if rollup.minimum is None:
        return f"all partitions of a {period} are there"
    if rollup.deadline is None:
        return f"the first {rollup.minimum} partitions of a {period} are there"
    later = f"from {_words(rollup.deadline)} after its end on, the first {rollup.minimum}"
    return f"all partitions of a {period} are there (or, {later})"


def _gates(pipeline: ModelPipeline) -> Iterator[str]:
    if not pipeline.gates:
        yield "The default gates of its problem type: better than the baseline, and not worse than what serves."
    for gate in pipeline.gates:
        yield _gate(gate)
    yield "A model too good to be true, or a feature that tells the label alone, is refused whatever the gates say."


def _gate(gate: Gate) -> str:
    where = f" in every {gate.by.column} with {gate.by.min_n} rows or more" if gate.by else ""
    if gate.vs and gate.max_drop is not None:
        return f"{gate.metric} at most {gate.max_drop:g} worse than that of the {gate.vs}."
    if gate.vs:
        return f"{gate.metric} at least {gate.min_gain:g} better than that of the {gate.vs}."
    bounds = [f"at least {gate.min:g}"] if gate.min is not None else []
    bounds += [f"at most {gate.max:g}"] if gate.max is not None else []
    return f"{gate.metric} {' and '.join(bounds)}{where}."


def _serving(pipeline: ModelPipeline) -> Iterator[str]:
    deploy = pipeline.deploy
    yield (
        f"{pipeline.model}.deploy starts when a challenger has passed: it is loaded on {deploy.server} beside what "
        f"serves, must repeat its golden predictions within {deploy.tolerance:g}, and then takes the label `stable`."
    )
    yield f"{deploy.keep} other versions stay, and can be gone back to in seconds: {pipeline.model}.rollback."
    if deploy.code == "committed":
        yield "A version of code that is in no commit is refused, unless somebody answers for it by name for a while."
    if pipeline.batch is not None:
        when = _cron(pipeline.batch.cron) if pipeline.batch.cron else f"after each run of {pipeline.model}.features"
        yield f"{pipeline.model}.batch_predict predicts each partition {when}."


def _blocks(pipeline: ModelPipeline) -> Iterator[str]:
    names = [feed.dataset for feed in pipeline.feeds]
    yield (
        f"A partition of {_listed(names, 'or')} that fails its suite, its contract or its checks is not sealed: its "
        f"run of {pipeline.model}.features stops there, and a training that needs it waits."
    )
    for pair in pipeline.reconcile:
        yield f"So does a day on which {pair.left} and {pair.right} do not agree."
    yield "A training also waits while an upstream has announced trouble, and while the model is halted."
    yield "A challenger that fails a gate is registered, and never served. A pin or a halt keeps what serves."


def _cron(cron: str) -> str:
    from cron_descriptor import FormatException, get_description

    presets = {
        "@hourly": "0 * * * *",
        "@daily": "0 0 * * *",
        "@weekly": "0 0 * * 0",
        "@monthly": "0 0 1 * *",
        "@quarterly": "0 0 1 */3 *",
        "@yearly": "0 0 1 1 *",
    }
    try:
        words = str(get_description(presets.get(cron, cron)))
    except FormatException:
        return f"by {cron!r} (UTC)"
    return f"{words[:1].lower()}{words[1:]} (UTC)"


def _words(duration: str) -> str:
    """Return a duration in words: ``2 hours``."""
    names = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week"}
    count, unit = duration.strip()[:-1], names[duration.strip()[-1]]
    return f"{count} {unit}{'' if count == '1' else 's'}"


def _days(span: timedelta) -> str:
    days = span / timedelta(days=1)
    return f"{days:g}d" if days >= 1 else f"{span / timedelta(hours=1):g}h"


def _listed(names: list[str], last: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
