"""What a training uses of its machine while it runs: processors, memory, bytes read, and its GPUs by NVML."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psutil

from airflow_mlops.engine.devices.nvml import Device

_EVERY = 15.0
"""Seconds between two samples."""
_MEGABYTE = 1e6


class Usage:
    """Takes samples of a process and of all that it has started.

    Names begin with ``system/``, so that MLflow shows them among the system metrics of a run.

    :param pid: Of the process.
    :param devices: Its GPUs.
    """

    def __init__(self, pid: int, devices: Sequence[Device] = ()) -> None:
        self._pid, self._devices = pid, devices
        self._taken, self._cpu = time.monotonic(), 0.0

    @property
    def due(self) -> bool:
        """Whether the last sample is old enough."""
        return time.monotonic() - self._taken >= _EVERY

    def sample(self) -> dict[str, float]:
        """Return metric → value; what the machine does not tell is left out, and nothing of a process that has ended.

        ``cpu_utilization_percentage`` is of all processors, since the last sample; ``bytes_read_megabytes`` counts from
        the beginning of the process.
        """
        now, cpu, memory, read = time.monotonic(), 0.0, 0, 0
        for process in self._processes():
            with contextlib.suppress(psutil.Error), process.oneshot():
                times = process.cpu_times()
                cpu += times.user + times.system + times.children_user + times.children_system
                memory += process.memory_info().rss
                with contextlib.suppress(AttributeError):  # not Linux
                    read += process.io_counters().read_chars
        used, seconds = max(0.0, cpu - self._cpu), max(now - self._taken, 1e-9)
        self._taken, self._cpu = now, cpu
        if not memory:
            return {}
        return {
            "system/cpu_utilization_percentage": round(100 * used / seconds / (os.cpu_count() or 1), 1),
            "system/memory_usage_megabytes": round(memory / _MEGABYTE, 1),
            "system/bytes_read_megabytes": round(read / _MEGABYTE, 1),
            **self._gpus(),
        }

    def _processes(self) -> list[psutil.Process]:
        try:
            process = psutil.Process(self._pid)
            return [process, *process.children(recursive=True)]
        except psutil.Error:
            return []

    def _gpus(self) -> dict[str, float]:
        if not self._devices:
            return {}
        import pynvml

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return {}
        try:
            return {
                f"system/gpu_{place}_{name}": value
                for place, device in enumerate(self._devices)
                for name, value in _of_gpu(pynvml, device)
            }
        finally:
            pynvml.nvmlShutdown()


def _of_gpu(nvml: Any, device: Device) -> Iterator[tuple[str, float]]:
    """Yield what the driver says of a GPU; of a part of one it says only the memory."""
    with contextlib.suppress(nvml.NVMLError):
        handle = nvml.nvmlDeviceGetHandleByUUID(device.uuid)
        yield "memory_usage_megabytes", round(nvml.nvmlDeviceGetMemoryInfo(handle).used / _MEGABYTE, 1)
        yield "utilization_percentage", float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
