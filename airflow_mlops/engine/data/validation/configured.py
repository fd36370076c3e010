"""What Great Expectations works out again and again, worked out once.

An expectation is asked some seventy times how it is configured, and works that out anew each time; of what comes out
it is made again, to be asked that. Which metrics it needs follows from that and from the types of the columns, and is
worked out anew for each batch. Both are most of what a suite takes on a small batch, as most partitions are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from great_expectations.expectations.expectation import Expectation

if TYPE_CHECKING:
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

_MOST = 10_000
Needs = TypeVar("Needs")

_configured: ContextVar[dict[int, ExpectationConfiguration]] = ContextVar("configured", default={})  # noqa: B039
_remembered: dict[Hashable, Any] = {}
_worked_out = Expectation.configuration.__get__


def _configuration(expectation: Expectation) -> ExpectationConfiguration:
    known = _configured.get().get(id(expectation))
    return _worked_out(expectation) if known is None else known


def _of(expectation: Expectation) -> ExpectationConfiguration:
    configuration: ExpectationConfiguration = _worked_out(expectation)
    configuration.to_domain_obj = lambda: expectation
    return configuration


Expectation.configuration = property(_configuration)


@contextmanager
def configured_once(expectations: Sequence[Expectation]) -> Iterator[None]:
    """Let each of some expectations work out its configuration once; in this block nobody may change them."""
    token = _configured.set({id(one): _of(one) for one in expectations})
    try:
        yield
    finally:
        _configured.reset(token)


def remembered(expectation: Expectation, shape: Hashable, work_out: Callable[[], Needs]) -> Needs:
    """Return what an expectation of the library's own needs on batches of a shape; anybody else's may look at the rows.

    :param shape: Name of the engine, and the types of the columns.
    """
    if not type(expectation).__module__.startswith("great_expectations."):
        return work_out()
    told = json.dumps(expectation.configuration.to_json_dict(), sort_keys=True, default=str)
    key = type(expectation), told, shape
    if key not in _remembered:
        if len(_remembered) >= _MOST:
            _remembered.clear()
        _remembered[key] = work_out()
    found: Needs = _remembered[key]
    return found
