"""What every trigger must keep: round trip, one terminal event, a free event loop."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import time

import pytest
from airflow.sdk import Asset, AssetWatcher
from airflow.serialization.encoders import encode_asset_like
from airflow.triggers.base import BaseEventTrigger

from airflow_mlops.exceptions import DataError
from airflow_mlops.triggers.base import PollTrigger
from tests.contract.classes import EVENT_TRIGGERS, TRIGGERS, example_arguments


class SlowTrigger(PollTrigger):
    """Blocks in its poll, as a client library would."""

    def __init__(self, *, poll_interval: float, deadline: float, looks: int) -> None:
        super().__init__(poll_interval=poll_interval, deadline=deadline, looks=looks)
        self.looks = looks

    def poll(self) -> str | None:
        time.sleep(0.2)
        self.looks -= 1
        if self.looks < 0:
            raise DataError("It broke.", detail="here", hint="mend it")
        return "there" if self.looks == 0 else None


@pytest.mark.parametrize("cls", [*TRIGGERS, *EVENT_TRIGGERS])
def test_round_trip(cls):
    trigger = cls(**example_arguments(cls))
    path, kwargs = trigger.serialize()
    module, _, name = path.rpartition(".")
    rebuilt = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(kwargs)))
    assert type(rebuilt) is cls
    assert rebuilt.serialize() == (path, kwargs)
    assert set(kwargs) == set(inspect.signature(cls).parameters)


@pytest.mark.parametrize("cls", TRIGGERS)
def test_killing_the_trigger_deletes_nothing(cls):
    assert cls.cleanup is PollTrigger.cleanup


@pytest.mark.parametrize("cls", EVENT_TRIGGERS)
def test_event_triggers_watch_assets(cls):
    """The DAG carries them as JSON; the hash by which Airflow knows a watcher again is of that."""
    trigger = cls(**example_arguments(cls))
    watched = Asset("watched", watchers=[AssetWatcher(name="w", trigger=trigger)])
    path, kwargs = trigger.serialize()
    [carried] = json.loads(json.dumps(encode_asset_like(watched)))["watchers"]
    assert carried["trigger"] == {"classpath": path, "kwargs": kwargs}
    assert cls.hash(path, carried["trigger"]["kwargs"]) == cls.hash(path, kwargs)
    assert cls.cleanup is BaseEventTrigger.cleanup


async def events(trigger: PollTrigger) -> list[dict]:
    return [event.payload async for event in trigger.run()]


async def test_polling_leaves_the_event_loop_free():
    lags = []

    async def heartbeat():
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            lags.append(time.perf_counter() - before - 0.01)

    probe = asyncio.create_task(heartbeat())
    assert await events(SlowTrigger(poll_interval=0.01, deadline=time.time() + 60, looks=3)) == [
        {"status": "success", "result": "there"}
    ]
    probe.cancel()
    assert max(lags) < 0.15, "a 0.2 s poll blocked the loop"


async def test_those_that_begin_together_do_not_go_on_together(monkeypatch):
    """A thousand looks in one moment hold the loop up."""
    pauses = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    triggers = [SlowTrigger(poll_interval=60, deadline=time.time() + 3600, looks=3) for _ in range(3)]
    await asyncio.gather(*map(events, triggers))
    first = [pause for pause in pauses if pause != 60]
    assert len(set(first)) == len(triggers) == pauses.count(60)
    assert all(0 <= pause < 60 for pause in first)


async def test_gives_up_at_the_wall_clock_deadline():
    started = time.time()
    assert await events(SlowTrigger(poll_interval=60, deadline=time.time() + 0.5, looks=99)) == [
        {"status": "timeout", "seen": ""}
    ]
    assert time.time() - started < 5


async def test_an_error_is_one_event_in_words():
    assert await events(SlowTrigger(poll_interval=0.01, deadline=time.time() + 60, looks=0)) == [
        {"status": "error", "headline": "It broke.", "detail": "here", "hint": "mend it", "retryable": False}
    ]
