"""NVIDIA's driver as this machine's: a ``pynvml`` that knows some GPUs."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

GIB = 2**30


class NVMLError(Exception):
    pass


def fake_nvml(*names: str, broken: int | None = None, driver: bool = True) -> ModuleType:
    """Return a module with GPUs of these names; ``broken`` is the number of one that has fallen off the bus."""
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
    nvml.nvmlDeviceGetUUID = lambda number: f"GPU-{number}{number}{number}{number}-uuid"
    nvml.nvmlDeviceGetName = lambda number: names[number]
    nvml.nvmlDeviceGetMemoryInfo = lambda number: SimpleNamespace(total=80 * GIB, free=(number + 1) * GIB)
    return nvml


def with_gpus(monkeypatch: pytest.MonkeyPatch, *names: str, **more: Any) -> None:
    """Let this process find such GPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(*names, **more))
