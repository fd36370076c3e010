"""The embedded model server: start, memory, latency, throughput, and what of it is the model itself.

A model of 18 scalar inputs (3 of them strings) and a 64-64-1 network, in a server process of its own. Every figure
of latency is also printed as a ratio to the bare engine in this process, which a busy machine slows alike, and with
the CPU time that the server spent, which a busy machine slows least.

Run: python bench/serving.py
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from airflow_mlops.engine.serving.client import ServingClient
from airflow_mlops.engine.serving.config import ModelConfig, ServerConfig
from airflow_mlops.engine.serving.saved_model import SavedModel

NUMBERS = [f"x{index}" for index in range(15)]
STRINGS = ["carrier", "origin", "dest"]
CALLS = 2000
WARM_UP = 50

MAKE = f"""
import sys, tensorflow as tf
m = tf.Module()
m.w = [tf.Variable(tf.random.normal(s, 0.1)) for s in ((18, 64), (64, 64), (64, 1))]
def f(**x):
    h = tf.stack([tf.cast(tf.strings.length(x[n]), tf.float32) for n in {STRINGS}] + [x[n] for n in {NUMBERS}], 1)
    h = tf.nn.relu(tf.nn.relu(h @ m.w[0]) @ m.w[1]) @ m.w[2]
    return {{"probability": tf.sigmoid(h)[:, 0]}}
m.f = tf.function(f, autograph=False)
specs = {{n: tf.TensorSpec([None], tf.string, name=n) for n in {STRINGS}}}
specs |= {{n: tf.TensorSpec([None], tf.float32, name=n) for n in {NUMBERS}}}
signature = m.f.get_concrete_function(**specs)
for version in "12":
    tf.saved_model.save(m, sys.argv[1] + "/" + version, signatures={{"serving_default": signature}})
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "m"
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        subprocess.run([sys.executable, "-c", MAKE, str(base)], check=True, env=environment, capture_output=True)
        in_process = measure_engine(base / "1")
        measure_server(base, in_process)


def inputs(rows: int) -> dict[str, np.ndarray]:
    text = {name: np.array(["UA"] * rows) for name in STRINGS}
    return text | {name: np.linspace(0, 1, rows, dtype=np.float32) for name in NUMBERS}


def measure_engine(path: Path) -> float:
    start = time.perf_counter()
    model = SavedModel(path)
    print(f"load in process, library included   {time.perf_counter() - start:8.2f} s")
    row, batch = inputs(1), inputs(64)
    one, many = p50(lambda: model.run(row), CALLS), p50(lambda: model.run(batch), CALLS)
    print(f"engine, 1 row                       {one * 1e6:8.0f} us p50")
    print(f"engine, 64 rows                     {many * 1e6:8.0f} us p50")
    model.close()
    return one


def measure_server(base: Path, unit: float) -> None:
    port, rest_port = free_ports(2)
    config = base.parent / "models.config"
    ServerConfig((ModelConfig("m", str(base), (1,), {"stable": 1}),)).write(config)
    start = time.perf_counter()
    server = subprocess.Popen(
        [
            sys.executable, "-m", "airflow_mlops.engine.serving.server.main", f"--port={port}",
            f"--rest_api_port={rest_port}", f"--model_config_file={config}", "--num_load_threads=2",
            "--num_unload_threads=2", "--allow_version_labels_for_unavailable_models",
        ],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not (is_open(port) and is_open(rest_port)):
            time.sleep(0.005)
        print(f"server, start to both ports open    {time.perf_counter() - start:8.2f} s")
        report_memory(server.pid)
        with ServingClient("127.0.0.1", port) as client:
            measure_requests(client, rest_port, unit, server.pid)
            measure_rollout(client, base)
        report_memory(server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def measure_requests(client: ServingClient, rest_port: int, unit: float, pid: int) -> None:
    def report(what: str, call: Callable[[], object]) -> None:
        before = cpu_seconds(pid)
        latency = p50(call, CALLS)
        cpu = (cpu_seconds(pid) - before) / (CALLS + WARM_UP)
        print(
            f"{what}, concurrency 1         {latency * 1e6:8.0f} us p50   {latency / unit:5.1f} x the engine, "
            f"{cpu * 1e6:.0f} us of the server's CPU"
        )

    row = inputs(1)
    report("gRPC,  1 row ", lambda: client.predict("m", row, version=1))
    report("REST,  1 row ", rest_call(rest_port, 1))
    report("REST, 64 rows", rest_call(rest_port, 64))
    print(f"gRPC, 1 row, concurrency 8          {rate(lambda: lambda: client.predict('m', row, version=1)):8.0f} /s")
    print(f"REST, 1 row, concurrency 8          {rate(lambda: rest_call(rest_port, 1)):8.0f} /s")


def measure_rollout(client: ServingClient, base: Path) -> None:
    start = time.perf_counter()
    client.reload(ServerConfig((ModelConfig("m", str(base), (1, 2), {"stable": 1}),)))
    while 2 not in (states := client.status("m")) or states[2].state != "AVAILABLE":
        time.sleep(0.002)
    loaded = time.perf_counter()
    client.reload(ServerConfig((ModelConfig("m", str(base), (1, 2), {"stable": 2}),)))
    print(f"second version loaded               {(loaded - start) * 1e3:8.0f} ms")
    print(f"label flipped                       {(time.perf_counter() - loaded) * 1e3:8.1f} ms")


def rest_call(port: int, rows: int) -> Callable[[], object]:
    """Return a call over one kept-alive connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    columns = {name: array.tolist() for name, array in inputs(rows).items()}
    instances = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    body = json.dumps({"instances": instances}).encode()

    def call() -> object:
        connection.request("POST", "/v1/models/m/labels/stable:predict", body)
        response = connection.getresponse()
        content = response.read()
        assert response.status == 200, content
        return content

    return call


def p50(call: Callable[[], object], calls: int) -> float:
    for _ in range(WARM_UP):
        call()
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def rate(make_call: Callable[[], Callable[[], object]]) -> float:
    """Return calls a second of 8 threads, clients included: they share the machine with the server."""

    def work(call: Callable[[], object]) -> None:
        for _ in range(CALLS // 4):
            call()

    calls = [make_call() for _ in range(8)]
    start = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, calls))
    return 8 * (CALLS // 4) / (time.perf_counter() - start)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report_memory(pid: int) -> None:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    rss, private = (
        sum(int(fields[name].split()[0]) for name in names) / 1024
        for names in (("Rss",), ("Private_Clean", "Private_Dirty"))
    )
    print(f"server memory                       {rss:8.0f} MB resident, {private:.0f} of it private")


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return not probe.connect_ex(("127.0.0.1", port))


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


if __name__ == "__main__":
    main()
