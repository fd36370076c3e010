"""NVIDIA's driver as this machine's: a ``pynvml`` that knows some GPUs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

GIB = 2**30


class NVMLError(Exception):
    pass


def _uuid(one: int | tuple[int, int]) -> str:
    return f"GPU-{str(one) * 4}-uuid" if isinstance(one, int) else f"MIG-{one[0]}{one[1]}-uuid"


def _memory(one: int | tuple[int, int]) -> SimpleNamespace:
    free = (one + 1) * GIB if isinstance(one, int) else GIB
    return SimpleNamespace(total=80 * GIB, free=free, used=80 * GIB - free)


def _named(known: Mapping[str, int | tuple[int, int]], uuid: str) -> int | tuple[int, int]:
    if uuid not in known:
        raise NVMLError("Not Found")
    return known[uuid]


def _rates(one: int | tuple[int, int]) -> SimpleNamespace:
    if not isinstance(one, int):
        raise NVMLError("Not Supported")
    return SimpleNamespace(gpu=10 * (one + 1), memory=1)


def fake_nvml(
    *names: str, broken: int | None = None, driver: bool = True, parts: Mapping[int, Sequence[str]] | None = None
) -> ModuleType:
    """Return a module with GPUs of these names.

    :param broken: Number of one that has fallen off the bus.
    :param parts: Number of one that is cut → names of its parts.
    """
    nvml: Any = ModuleType("pynvml")

    def handle(number: int) -> int:
        if number == broken:
            raise NVMLError("GPU is lost")
        return number

    def init() -> None:
        if not driver:
            raise NVMLError("NVML Shared Library Not Found")

    nvml.NVMLError = NVMLError
    nvml.nvmlInit, nvml.nvmlShutdown = init, lambda: None
    nvml.nvmlDeviceGetCount = lambda: len(names)
    nvml.nvmlDeviceGetHandleByIndex = handle

    def part(number: int, index: int) -> tuple[int, int]:
        if index >= len(cut[number]):
            raise NVMLError("Not Found")
        return number, index

    def mode(number: int) -> list[int]:
        if not cut:
            raise NVMLError("Not Supported")
        return [number in cut, number in cut]

    cut = parts or {}

    every = (*range(len(names)), *((number, index) for number in cut for index in range(len(cut[number]))))
    nvml.nvmlDeviceGetHandleByUUID = partial(_named, {_uuid(one): one for one in every})
    nvml.nvmlDeviceGetUtilizationRates = _rates
    nvml.nvmlDeviceGetUUID, nvml.nvmlDeviceGetMemoryInfo = _uuid, _memory
    nvml.nvmlDeviceGetName = lambda one: names[one] if isinstance(one, int) else cut[one[0]][one[1]]
    nvml.nvmlDeviceGetMigMode = mode
    nvml.nvmlDeviceGetMaxMigDeviceCount = lambda number: 7
    nvml.nvmlDeviceGetMigDeviceHandleByIndex = part
    return nvml


def with_gpus(monkeypatch: pytest.MonkeyPatch, *names: str, **more: Any) -> None:
    """Let this process find such GPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(*names, **more))
