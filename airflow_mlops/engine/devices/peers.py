"""The other workers of a training that several processes share: they find each other by ``TF_CONFIG``.

TensorFlow is imported after this: each worker has its own part of the GPUs.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence

from airflow_mlops.contracts import Compute
from airflow_mlops.engine.devices.nvml import VISIBLE
from airflow_mlops.engine.devices.told import TOLD, told

TF_CONFIG = "TF_CONFIG"
_HOST = "127.0.0.1"


@contextlib.contextmanager
def with_peers(compute: Compute, command: Sequence[str], lost: Callable[[int, int], None]) -> Iterator[None]:
    """Make this process the first of the workers, and run the others while the block does.

    :param command: What another worker runs; its number is added. It ends when its standard input does.
    :param lost: Told the number and the status of a worker that ended before.
    """
    if compute.workers == 1:
        yield
        return
    addresses = [f"{_HOST}:{port}" for port in free_ports(compute.workers)]
    environments = [_environment(compute, addresses, number) for number in range(compute.workers)]
    fds, over = told().fds, threading.Event()
    peers = [
        subprocess.Popen(
            [*command, str(number)], stdin=subprocess.PIPE, env={**os.environ, **environment}, pass_fds=fds
        )
        for number, environment in enumerate(environments[1:], 1)
    ]

    def mind(number: int, peer: subprocess.Popen[bytes]) -> None:
        status = peer.wait()
        if not over.is_set():
            lost(number, status)

    os.environ.update(environments[0])
    for number, peer in enumerate(peers, 1):
        threading.Thread(target=mind, args=(number, peer), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        for peer in peers:
            peer.kill()
            peer.wait()


def _environment(compute: Compute, addresses: Sequence[str], number: int) -> dict[str, str]:
    """Return what a worker is told: who all are, which one it is, and which GPUs are its own."""
    config = {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": number}}
    mine, own = told(), slice(number * compute.replicas, (number + 1) * compute.replicas)
    return {
        TF_CONFIG: json.dumps(config),
        VISIBLE: ",".join(os.environ.get(VISIBLE, "-1").split(",")[own]) or "-1",
        TOLD: json.dumps(mine._replace(names=list(mine.names)[own])._asdict()),
    }


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    listeners = [socket.create_server((_HOST, 0)) for _ in range(count)]
    try:
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()
