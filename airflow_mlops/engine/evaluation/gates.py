"""Gates: is the challenger good enough to serve? The same inputs always give the same verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow_mlops.contracts import Evaluation, GateCheck, Verdict, VerdictStatus, content_hash
from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.parts import Gate, Slice
from airflow_mlops.problems import head_of, metrics_of, of_head, problem_named

MOVED = 0.5
"""So many standard deviations of the labels apart, the mean predictions of two models are worth a look."""
FEW = 100
"""Of fewer test rows than this, an honest model may get every one right."""


def judge(model: str, gates: Sequence[Mapping[str, Any]], evaluation: Evaluation) -> Verdict:
    """Judge an evaluation by gates.

    All must pass. What is not a number passes nothing; a slice that vanished from the test split fails, and so
    does a gate by slice that finds no slice large enough. Where no champion serves yet, comparing with it
    passes; so does comparing a head that it does not have. Where there is one that could not be scored, it fails. A
    model that is too good to be true fails, and of several labels each is looked at. Where it predicts otherwise on
    average than the champion, on the same rows, a line says so, and fails nothing.

    :param gates: :class:`~airflow_mlops.parts.Gate` as dicts; none: those of the evaluation's problem type, and those
        of each head's.
    :raises ConfigError: when a gate is not valid, or of a metric that the problem type does not have.
    """
    gates = gates_of(gates, evaluation)
    parsed = [_parse(gate, evaluation) for gate in gates]
    checks = [check for gate in parsed for check in _checks(gate, evaluation)]
    checks += [_not_too_good(evaluation, head, name) for head, name in _labels(evaluation).items()]
    checks += _averages(evaluation)
    status = VerdictStatus.PASS if all(check.passed for check in checks) else VerdictStatus.FAIL
    return Verdict(
        model=model,
        status=status,
        checks=tuple(checks),
        inputs_hash=content_hash({"model": model, "gates": list(gates), "evaluation": evaluation.told()}),
    )


def gates_of(gates: Sequence[Mapping[str, Any]], evaluation: Evaluation) -> list[Mapping[str, Any]]:
    """Return the gates that an evaluation is judged by: those given, else those of its problem types."""
    return list(gates) or [
        {**gate, "metric": of_head(head, gate["metric"])}
        for head, name in _labels(evaluation).items()
        for gate in problem_named(name).gates
    ]


def _labels(evaluation: Evaluation) -> dict[str, str]:
    """Return head → problem type; of the label itself, which is no head, at ``""``."""
    return {"": evaluation.problem, **{name: head.problem for name, head in evaluation.heads.items()}}


def _rows(evaluation: Evaluation, metric: str) -> int:
    """Return of how many test rows a metric is."""
    head = head_of(metric)
    return evaluation.heads[head].rows if head else evaluation.rows


def _parse(gate: Mapping[str, Any], evaluation: Evaluation) -> Gate:
    words = dict(gate)
    by = words.pop("by", None)
    if by is not None and not isinstance(by, Mapping):
        raise ConfigError(f"by={by!r} of a gate is not a slice.", hint='Write {"column": "carrier", "min_n": 500}.')
    parsed = Gate(**words, by=None if by is None else Slice(**by))
    if parsed.metric not in (known := metrics_of(_labels(evaluation))):
        head = head_of(parsed.metric)
        named = _labels(evaluation).get(head)
        raise ConfigError(
            f"{f'A {named}' if named else 'The model'} has no metric {parsed.metric!r}."
            f"{did_you_mean(parsed.metric, known)}",
            detail="the label is of this problem type, by what it holds or by Label(problem=...)"
            if named
            else f"{head!r} is no head of it; heads: {', '.join(evaluation.heads) or 'none'}",
            hint=f"Metrics: {', '.join(known)}.",
        )
    return parsed


def _checks(gate: Gate, evaluation: Evaluation) -> Iterator[GateCheck]:
    if gate.vs is not None:
        yield from _compare(gate, gate.vs, evaluation)
    elif gate.by is not None:
        yield from _by_slice(gate, gate.by, evaluation)
    else:
        observed = evaluation.metrics["challenger"].get(gate.metric, math.nan)
        yield from _within(gate, observed, _rows(evaluation, gate.metric))


def _compare(gate: Gate, other: str, evaluation: Evaluation) -> Iterator[GateCheck]:
    observed = evaluation.metrics["challenger"].get(gate.metric, math.nan)
    check = GateCheck(
        gate=f"{gate.metric} vs {other}",
        passed=False,
        metric=gate.metric,
        observed=observed,
        bound=None,
        n=_rows(evaluation, gate.metric),
        reason=f"no {other} yet",
    )
    if other in evaluation.unevaluated:
        reason = f"the {other} could not be scored: {evaluation.unevaluated[other]}"
        yield check.model_copy(update={"reason": reason})
        return
    if other not in evaluation.metrics:
        yield check.model_copy(update={"passed": True})
        return
    head = head_of(gate.metric)
    if head and not any(metric.startswith(f"{head}.") for metric in evaluation.metrics[other]):
        yield check.model_copy(update={"passed": True, "reason": f"the {other} has no such head {head!r} yet"})
        return
    reference = evaluation.metrics[other].get(gate.metric, math.nan)
    # For a loss, better is less.
    better = -1.0 if metrics_of(_labels(evaluation))[gate.metric].less_is_better else 1.0
    bounds = {}
    if gate.max_drop is not None:
        bounds["max_drop"] = reference - better * gate.max_drop
    if gate.min_gain is not None:
        bounds["min_gain"] = reference + better * gate.min_gain
    for word, bound in bounds.items():
        asked = f"{'>=' if better > 0 else '<='} {bound:.4f}"
        yield check.model_copy(
            update={
                "gate": f"{check.gate} {word}",
                "passed": better * observed >= better * bound,
                "bound": bound,
                "reason": f"{observed:.4f}, asked {asked} ({other}: {reference:.4f})",
            }
        )


def _by_slice(gate: Gate, by: Slice, evaluation: Evaluation) -> Iterator[GateCheck]:
    checks: list[GateCheck] = []
    head = head_of(gate.metric)
    for value, metrics in evaluation.slices.get(by.column, {}).items():
        n, expected = int(metrics[of_head(head, "n")]), metrics[of_head(head, "expected_n")]
        name = f"{by.column}={value}"
        if n >= by.min_n:
            checks += _within(gate, metrics.get(gate.metric, math.nan), n, name)
        elif expected >= by.min_n and n < by.min_n / 2:
            reason = f"vanished: {n} test rows where its share of the training rows promised {expected:.0f}"
            checks.append(_unseen(gate, reason, n, name))
    nothing = f"no value of {by.column!r} has {by.min_n} test rows: nothing was judged"
    yield from checks or [_unseen(gate, nothing, 0, f"{by.column}=*")]


def _unseen(gate: Gate, reason: str, n: int, slice_name: str) -> GateCheck:
    return GateCheck(
        gate=f"{gate.metric} of {slice_name}",
        passed=False,
        metric=gate.metric,
        observed=None,
        bound=None,
        slice=slice_name,
        n=n,
        reason=reason,
    )


def _within(gate: Gate, observed: float, n: int, slice_name: str | None = None) -> Iterator[GateCheck]:
    name = gate.metric if slice_name is None else f"{gate.metric} of {slice_name}"
    for word, bound in (("min", gate.min), ("max", gate.max)):
        if bound is None:
            continue
        yield GateCheck(
            gate=f"{name} {word}",
            passed=observed >= bound if word == "min" else observed <= bound,
            metric=gate.metric,
            observed=observed,
            bound=bound,
            slice=slice_name,
            n=n,
            reason=f"{observed:.4f}, asked {'>=' if word == 'min' else '<='} {bound:g}",
        )


def _averages(evaluation: Evaluation) -> Iterator[GateCheck]:
    """Say how far the mean prediction is from the champion's: where labels are missing, a model learns that too."""
    labels, before = evaluation.predicted.get("labels", {}), evaluation.predicted.get("champion", {})
    for head, now in evaluation.predicted.get("challenger", {}).items():
        if (was := before.get(head)) is None:
            continue
        true = labels[head]
        reason = f"{now.mean:.4f} (champion: {was.mean:.4f}, labels: {true.mean:.4f})"
        if abs(now.mean - was.mean) > MOVED * true.std:
            reason = f"WARNING: {reason}: further apart than {MOVED:g} of the labels' deviation. Are all labels there?"
        yield GateCheck(
            gate=f"{of_head(head, 'mean prediction')} vs champion",
            passed=True,
            metric="",
            observed=now.mean,
            bound=None,
            n=_rows(evaluation, of_head(head, "mean prediction")),
            reason=reason,
        )


def _not_too_good(evaluation: Evaluation, head: str, problem: str) -> GateCheck:
    metric, bound = problem_named(problem).too_good
    metric = of_head(head, metric)
    observed = evaluation.metrics["challenger"].get(metric, math.nan)
    rows = _rows(evaluation, metric)
    reason = f"{observed:.4f}, asked < {bound}"
    if observed >= bound and rows < FEW:
        reason = f"WARNING: {reason}: of {rows} test rows that says little; with more it would be too good to be true"
    elif observed >= bound:
        reason += ": too good to be true; look for a feature that is known only with the label"
    return GateCheck(
        gate=f"{metric} not too good",
        passed=observed < bound or (observed >= bound and rows < FEW),
        metric=metric,
        observed=observed,
        bound=bound,
        n=rows,
        reason=reason,
    )
