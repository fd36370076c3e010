"""Which GPUs this machine has, asked of NVIDIA's driver by NVML. TensorFlow is not imported."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable with the GPUs that a process may use."""


class Device(NamedTuple):
    """A GPU.

    :param number: Its number, as ``nvidia-smi`` counts.
    :param memory: All of its memory, in bytes; 0 when the driver does not say.
    :param free: What nobody uses now of it, in bytes.
    """

    number: int
    uuid: str
    name: str
    memory: int = 0
    free: int = 0

    def __str__(self) -> str:
        size = f", {self.memory / 2**30:.0f} GiB" if self.memory else ""
        return f"GPU {self.number} ({self.name}{size})"


class Found(NamedTuple):
    """The GPUs that this process may use; and, where there are none or not all, why."""

    devices: list[Device]
    why: str = ""


def find_gpus() -> Found:
    """Return the GPUs that the driver knows and ``CUDA_VISIBLE_DEVICES`` leaves to this process, in its order."""
    try:
        import pynvml
    except ImportError:
        return Found([], 'nvidia-ml-py is not installed: pip install "airflow-mlops[tensorflow]"')
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Found([], f"no driver of NVIDIA's answers: {error}")
    try:
        found = _known(pynvml)
    finally:
        pynvml.nvmlShutdown()
    setting = os.environ.get(VISIBLE)
    if setting is None or not found.devices:
        return found
    devices = _left(found.devices, setting.split(","))
    if len(devices) == len(found.devices):
        return Found(devices, found.why)
    return Found(devices, f"the driver knows {len(found.devices)}, and {VISIBLE}={setting!r} leaves {len(devices)}")


def _known(nvml: Any) -> Found:
    devices: list[Device] = []
    broken = []
    for number in range(nvml.nvmlDeviceGetCount()):
        try:
            whole = nvml.nvmlDeviceGetHandleByIndex(number)
            devices += [_device(nvml, number, handle) for handle in _parts(nvml, whole)]
        except nvml.NVMLError as error:
            broken.append(f"GPU {number} does not answer: {error}")
    return Found(devices, "; ".join(broken) or ("" if devices else "the driver knows none"))


def _parts(nvml: Any, whole: Any) -> list[Any]:
    """Return what can be used of a GPU: itself, or the parts that it is cut into (MIG)."""
    try:
        if not nvml.nvmlDeviceGetMigMode(whole)[0]:
            return [whole]
    except nvml.NVMLError:  # none of those that can be cut
        return [whole]
    parts = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(whole)):
        with contextlib.suppress(nvml.NVMLError):  # there are fewer
            parts.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, index))
    return parts


def _device(nvml: Any, number: int, handle: Any) -> Device:
    uuid, name = _text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle))
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError:  # where it shares the machine's memory
        return Device(number, uuid, name)
    return Device(number, uuid, name, int(memory.total), int(memory.free))


def _left(devices: Sequence[Device], wanted: Sequence[str]) -> list[Device]:
    """Return the devices that are named, by number or by how their UUID begins; nothing counts from an unknown on."""
    left: list[Device] = []
    for name in map(str.strip, wanted):
        one = next((device for device in devices if name == str(device.number) or _begins(device.uuid, name)), None)
        if one is None or one in left:
            break
        left.append(one)
    return left


def _begins(uuid: str, name: str) -> bool:
    return name.startswith(("GPU-", "MIG-")) and uuid.startswith(name)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
