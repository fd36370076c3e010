"""The embedded model server: start, memory, latency, throughput, and what of it is the model itself.

A model of 40 scalar inputs (3 of them strings) and a 64-64-1 network, in a server process of its own. What is held
against bounds is CPU, which a busy machine changes least: of one row by REST against the bare engine in this process;
of one row by gRPC against the engine and a handler of grpcio that takes the same message and does nothing with it.

Run: python bench/serving.py [--small]
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

import grpc
import numpy as np

from _figures import Figures, options
from airflow_mlops.engine.serving import tensors
from airflow_mlops.engine.serving.client import ServingClient
from airflow_mlops.engine.serving.config import ModelConfig, ServerConfig
from airflow_mlops.engine.serving.protos import services
from airflow_mlops.engine.serving.protos import serving_pb2 as pb
from airflow_mlops.engine.serving.saved_model import SavedModel

NUMBERS = [f"x{index}" for index in range(37)]
STRINGS = ["carrier", "origin", "dest"]
CALLS, SMALL_CALLS = 2000, 200
WARM_UP = 50

MAKE = f"""
import sys, tensorflow as tf
m = tf.Module()
m.w = [tf.Variable(tf.random.normal(s, 0.1)) for s in ((40, 64), (64, 64), (64, 1))]
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
    given = options(__doc__).parse_args()
    figures, calls = Figures(small=given.small), SMALL_CALLS if given.small else CALLS
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "m"
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        subprocess.run([sys.executable, "-c", MAKE, str(base)], check=True, env=environment, capture_output=True)
        engine = measure_engine(base / "1", calls)
        measure_server(figures, base, engine, measure_noop(calls), calls)
    figures.end()


def inputs(rows: int) -> dict[str, np.ndarray]:
    text = {name: np.array(["UA"] * rows) for name in STRINGS}
    return text | {name: np.linspace(0, 1, rows, dtype=np.float32) for name in NUMBERS}


def measure_engine(path: Path, calls: int) -> float:
    """Return CPU seconds of one row in this process."""
    start = time.perf_counter()
    model = SavedModel(path)
    print(f"load in process, library included   {time.perf_counter() - start:8.2f} s")
    row, batch = inputs(1), inputs(64)
    print(f"engine, 64 rows                     {p50(lambda: model.run(batch), calls) * 1e6:8.0f} us p50")
    before = time.process_time()
    one = p50(lambda: model.run(row), calls)
    cpu = (time.process_time() - before) / (calls + WARM_UP)
    print(f"engine, 1 row                       {one * 1e6:8.0f} us p50, {cpu * 1e6:.0f} us of CPU")
    model.close()
    return cpu


def measure_noop(calls: int) -> float:
    """Return CPU seconds of a process in which grpcio takes the message of one row and answers an empty one."""
    (port,) = free_ports(1)
    code = (
        "import sys, grpc; from concurrent.futures import ThreadPoolExecutor\n"
        "from airflow_mlops.engine.serving.protos import services, serving_pb2 as pb\n"
        "handler = grpc.unary_unary_rpc_method_handler(lambda r, c: pb.PredictResponse(),\n"
        "    pb.PredictRequest.FromString, pb.PredictResponse.SerializeToString)\n"
        "service, method = services.PREDICT.path.strip('/').split('/')\n"
        "server = grpc.server(ThreadPoolExecutor(8))\n"
        "server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))\n"
        f"server.add_insecure_port('127.0.0.1:{port}'); server.start(); server.wait_for_termination()\n"
    )
    server = subprocess.Popen([sys.executable, "-c", code])
    try:
        while not is_open(port):
            time.sleep(0.005)
        request = predict_request(inputs(1))
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(
                services.PREDICT.path,
                request_serializer=pb.PredictRequest.SerializeToString,
                response_deserializer=pb.PredictResponse.FromString,
            )
            _, cpu = of_server(server.pid, lambda: call(request), calls)
    finally:
        server.kill()
        server.wait()
    print(f"no-op handler of grpcio             {cpu * 1e6:8.0f} us of CPU")
    return cpu


def predict_request(rows: dict[str, np.ndarray]) -> pb.PredictRequest:
    request = pb.PredictRequest()
    request.model_spec.name = "m"
    for name, values in rows.items():
        request.inputs[name].CopyFrom(tensors.to_proto(values))
    return request


def of_server(pid: int, call: Callable[[], object], calls: int) -> tuple[float, float]:
    """Return the median seconds of a call, and the CPU seconds that each took of a server."""
    before = cpu_seconds(pid)
    latency = p50(call, calls)
    return latency, (cpu_seconds(pid) - before) / (calls + WARM_UP)


def measure_server(figures: Figures, base: Path, engine: float, noop: float, calls: int) -> None:
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
            row = inputs(1)
            grpc_cpu = report("gRPC,  1 row ", server.pid, lambda: client.predict("m", row, version=1), calls)
            rest_cpu = report("REST,  1 row ", server.pid, rest_call(rest_port, 1), calls)
            report("REST, 64 rows", server.pid, rest_call(rest_port, 64), calls)
            figures.hold("CPU, one row by REST / the engine", rest_cpu / engine, at_most=2.5)
            figures.hold(
                "CPU, one row by gRPC / the engine and a no-op handler", grpc_cpu / (engine + noop), at_most=1.5
            )
            one = rate(lambda: lambda: client.predict("m", row, version=1), calls)
            print(f"gRPC, 1 row, concurrency 8          {one:8.0f} /s")
            print(f"REST, 1 row, concurrency 8          {rate(lambda: rest_call(rest_port, 1), calls):8.0f} /s")
            measure_rollout(client, base)
        report_memory(server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def report(what: str, pid: int, call: Callable[[], object], calls: int) -> float:
    latency, cpu = of_server(pid, call, calls)
    print(f"{what}, concurrency 1         {latency * 1e6:8.0f} us p50, {cpu * 1e6:.0f} us of the server's CPU")
    return cpu


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


def rate(make_call: Callable[[], Callable[[], object]], count: int) -> float:
    """Return calls a second of 8 threads, clients included: they share the machine with the server."""

    def work(call: Callable[[], object]) -> None:
        for _ in range(count // 4):
            call()

    calls = [make_call() for _ in range(8)]
    start = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, calls))
    return 8 * (count // 4) / (time.perf_counter() - start)


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
