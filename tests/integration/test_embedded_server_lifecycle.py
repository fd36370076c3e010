"""The embedded model server through its life: start, versions that come, break and go, restart, stop."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from airflow_mlops.engine.serving.client import ServingClient
from airflow_mlops.engine.serving.config import ModelConfig, ServerConfig
from airflow_mlops.exceptions import ConfigError, MlopsError
from tests.model_server import FLAGS, ModelServer, config_text, damaged, model_text, publish, wait_for
from tests.serving_reference import reference

ROW = {"carrier": "UA", "distance": 100.0, "hour": 0}
INPUTS = {"carrier": np.array(["UA"]), "distance": np.array([100.0]), "hour": np.array([0])}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Models by the weight they multiply with: 1, 2."""
    folder = tmp_path_factory.mktemp("exported")
    return {weight: reference().make(folder / str(weight), weight) for weight in (1, 2)}


def score(server: ModelServer, path: str = "m") -> float:
    status, answer = server.predict(path, {"instances": [ROW]})
    assert status == 200, answer
    return answer["predictions"][0]["score"]


def specific(base: Path, *versions: int, **labels: int) -> ServerConfig:
    return ServerConfig((ModelConfig("m", str(base), versions, labels),))


# --- start and stop -----------------------------------------------------------------------------------------


def test_ports_open_when_the_first_model_is_there_and_close_on_sigterm(exported: dict[int, Path], tmp_path: Path):
    base = tmp_path / "m"
    base.mkdir()
    with ModelServer("--model_name=m", f"--model_base_path={base}", *FLAGS) as server:
        time.sleep(2.5)
        assert not server.is_open()
        assert server.process.poll() is None  # it waits for a version, however long that takes
        publish(exported[1], base / "1")
        server.wait_until_open()
        assert server.states("m") == {1: "AVAILABLE"}
        assert score(server) == 100.0
        with ThreadPoolExecutor(1) as pool:
            slow = {"signature_name": "slow", "inputs": {"loops": 100_000}}
            running = pool.submit(server.predict, "m", slow)
            time.sleep(0.5)
            assert server.stop() == 0
            assert running.result()[0] == 200  # what was let in is answered
    assert "Done unloading servable version {name: m version: 1}" in server.log


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("broken model", "1 servable(s) did not become available: {{{name: m version: 1} due to error: NOT_FOUND"),
        (
            "label",
            "Request to assign label to version 1 of model m, which is not currently available for inference",
        ),
        ("no file", "The model config file does not exist."),
        ("bad file", 'has no field named "modles"'),
        ("no model", "Both model_base_path and model_config_file are empty!"),
        ("relative", "Expected model default to have an absolute path or URI; got base_path()=models"),
        ("port in use", "cannot be used"),
    ],
)
def test_it_does_not_start(exported: dict[int, Path], tmp_path: Path, case: str, says: str):
    base, config = tmp_path / "m", tmp_path / "models.config"
    flags = [f"--model_config_file={config}", "--max_num_load_retries=0"]
    taken = None
    match case:
        case "broken model":
            (base / "1").mkdir(parents=True)
            config.write_text(config_text(model_text("m", base)))
        case "label":  # refused at the start unless a flag allows it
            publish(exported[1], base / "1")
            config.write_text(config_text(model_text("m", base, (1,), stable=1)))
        case "bad file":
            config.write_text("modles {}")
        case "no model":
            flags = []
        case "relative":
            flags = ["--model_base_path=models"]
        case "port in use":
            config.write_text("")
            taken = socket.create_server(("127.0.0.1", 0))
            flags.append(f"--port={taken.getsockname()[1]}")
    with ModelServer(*flags) as server:
        assert server.wait() == 1
    assert "Failed to start server." in server.log
    assert says in server.log
    assert "Traceback" not in server.log
    if taken:
        taken.close()


# --- rollout ------------------------------------------------------------------------------------------------


def test_rollouts_under_load_fail_no_request(exported: dict[int, Path], tmp_path: Path):
    base, config = tmp_path / "m", tmp_path / "models.config"
    publish(exported[1], base / "1")
    config.write_text(config_text(model_text("m", base, (1,), stable=1)))
    with ModelServer(f"--model_config_file={config}", *FLAGS) as server:
        server.wait_until_open()
        done = threading.Event()

        def load_on(path: str, *, grpc: bool) -> Counter[float]:
            answers: Counter[float] = Counter()
            with ServingClient("127.0.0.1", server.port, timeout=20) as client:
                while not done.is_set():
                    label = "stable" if path.endswith("stable") else None
                    answers[
                        client.predict("m", INPUTS, label=label)["score"].item() if grpc else score(server, path)
                    ] += 1
            return answers

        with ThreadPoolExecutor(4) as pool:
            clients = [
                pool.submit(load_on, path, grpc=grpc) for path in ("m", "m/labels/stable") for grpc in (True, False)
            ]
            for number in range(2, 7):
                publish(exported[2 - number % 2], base / str(number))
                server.client.reload(specific(base, number - 1, number, stable=number - 1))
                server.wait_for_states("m", {number: "AVAILABLE", number - 1: "AVAILABLE"})
                server.client.reload(specific(base, number - 1, number, stable=number))
                assert server.client.metadata("m", label="stable")[0] == number
                server.client.reload(specific(base, number, stable=number))
                server.wait_for_states("m", {number: "AVAILABLE", number - 1: "END"})
            done.set()
            answers = [client.result() for client in clients]  # raises what a request raised
        for counted in answers:
            assert set(counted) == {100.0, 200.0}
        assert server.client.status("m", 1)[1].error == ""


def test_labels(exported: dict[int, Path], tmp_path: Path):
    base, config = tmp_path / "m", tmp_path / "models.config"
    for number in (1, 2):
        publish(exported[number], base / str(number))
    config.write_text(config_text(model_text("m", base, (1, 2), stable=1)))
    with ModelServer(f"--model_config_file={config}", *FLAGS) as server:
        server.wait_until_open()
        server.wait_for_states("m", {1: "AVAILABLE", 2: "AVAILABLE"})
        server.client.reload(specific(base, 1, 2, stable=2))
        assert score(server, "m/labels/stable") == 200.0
        # A label in use may not move to what is not there; all stays as it was, versions too.
        with pytest.raises(ConfigError, match="version 3 of model m, which is not currently available"):
            server.client.reload(specific(base, 1, 3, stable=3))
        assert server.client.metadata("m", label="stable")[0] == 2
        assert server.states("m") == {1: "AVAILABLE", 2: "AVAILABLE"}
        # A new one may, with the flag, and finds nothing until the version is there.
        server.client.reload(specific(base, 1, 2, 3, stable=2, canary=3))
        assert server.predict("m/labels/canary", {"instances": [ROW]}) == (
            404,
            {"error": "Servable not found for request: Specific(m, 3)"},
        )
        publish(exported[1], base / "3")
        server.wait_for_states("m", {3: "AVAILABLE"})
        assert score(server, "m/labels/canary") == 100.0
        server.client.reload(specific(base, 1, 2, 3, stable=2))
        assert server.predict("m/labels/canary", {"instances": [ROW]})[0] == 400


def test_reload_waits_for_new_models_and_says_why_one_failed(exported: dict[int, Path], tmp_path: Path):
    base, config = tmp_path / "m", tmp_path / "models.config"
    publish(exported[1], base / "1")
    (tmp_path / "broken" / "1").mkdir(parents=True)
    config.write_text("")  # a server without models is a server
    with ModelServer(f"--model_config_file={config}", *FLAGS) as server:
        server.wait_until_open()
        assert server.rest("GET", "/v1/models/m")[0] == 404
        server.client.reload(specific(base, 1))
        assert server.states("m") == {1: "AVAILABLE"}  # at once: the name was new
        both = specific(base, 1).with_model(ModelConfig("broken", str(tmp_path / "broken"), (1,)))
        with pytest.raises(MlopsError, match=r"1 model\(s\) did not become available: .*name: broken version: 1"):
            server.client.reload(both)
        assert score(server) == 100.0
        server.client.reload(ServerConfig(()))
        server.wait_for_states("m", {1: "END"})
        assert server.predict("m", {"instances": [ROW]})[0] == 404


# --- broken versions ----------------------------------------------------------------------------------------


def test_broken_versions_end_with_their_error_and_the_old_one_serves(exported: dict[int, Path], tmp_path: Path):
    base = tmp_path / "m"
    publish(exported[1], base / "1")
    table = {
        2: ("empty", "NOT_FOUND", "Could not find SavedModel .pb or .pbtxt"),
        3: ("truncated graph", "OUT_OF_RANGE", "Read less bytes than requested"),
        4: ("no data file", "NOT_FOUND", "variables.data-00000-of-00001"),
        5: ("truncated data", "OUT_OF_RANGE", ""),
        6: ("flipped bytes", "DATA_LOSS", "Checksum does not match"),
    }
    with ModelServer("--model_name=m", f"--model_base_path={base}", *FLAGS) as server:
        server.wait_until_open()
        for number, (damage, *_) in table.items():
            damaged(exported[2], tmp_path / damage, damage).rename(base / str(number))
            server.wait_for_states("m", {number: "END"})
            assert score(server) == 100.0
        status = server.client.status("m")
        assert status[1].state == "AVAILABLE"
        for number, (_, code, words) in table.items():
            assert status[number].error.startswith(f"{code}: ")
            assert words in status[number].error
        _, answer = server.rest("GET", "/v1/models/m/versions/6")
        assert answer["model_version_status"][0]["status"]["error_code"] == "DATA_LOSS"

        # The trap: without its variables a version loads, takes over, and fails every request.
        damaged(exported[2], tmp_path / "graph only", "graph only").rename(base / "7")
        server.wait_for_states("m", {7: "AVAILABLE", 1: "END"})
        answered, answer = server.predict("m", {"instances": [ROW]})
        assert answered == 400
        assert "Could not find variable" in answer["error"]

        publish(exported[2], base / "8")
        server.wait_for_states("m", {8: "AVAILABLE", 7: "END"})
        assert score(server) == 200.0


def test_a_failed_version_is_tried_again_only_when_it_was_taken_out(exported: dict[int, Path], tmp_path: Path):
    base, config = tmp_path / "m", tmp_path / "models.config"
    publish(exported[1], base / "1")
    (base / "2").mkdir()
    config.write_text(config_text(model_text("m", base, (1, 2))))
    with ModelServer(
        f"--model_config_file={config}", *FLAGS, "--max_num_load_retries=1", "--load_retry_interval_micros=100000"
    ) as server:
        server.wait_until_open()
        server.wait_for_states("m", {2: "END"})
        (base / "2").rmdir()
        publish(exported[2], base / "2")
        time.sleep(0.5)  # several looks at the file system
        assert server.states("m")[2] == "END"
        server.client.reload(specific(base, 1))
        server.client.reload(specific(base, 1, 2))
        server.wait_for_states("m", {2: "AVAILABLE"})
        assert score(server) == 200.0
        assert server.stop() == 0
    assert server.log.count("Loading servable: {name: m version: 2} failed") == 2  # the first try and the retry


def test_a_retry_that_nobody_wants_any_more_ends_at_once(exported: dict[int, Path], tmp_path: Path):
    base, config = tmp_path / "m", tmp_path / "models.config"
    publish(exported[1], base / "1")
    (base / "2").mkdir()
    config.write_text(config_text(model_text("m", base, (1, 2))))
    with ModelServer(
        f"--model_config_file={config}", *FLAGS, "--max_num_load_retries=9", "--load_retry_interval_micros=60000000"
    ) as server:
        server.wait_until_open()
        assert server.states("m")[2] == "LOADING"
        server.client.reload(specific(base, 1))
        server.wait_for_states("m", {2: "END"}, seconds=5)
        assert score(server) == 100.0


# --- file system and config file ----------------------------------------------------------------------------


def test_only_numbers_are_versions_and_a_vanished_base_path_changes_nothing(exported: dict[int, Path], tmp_path: Path):
    base = tmp_path / "m"
    publish(exported[1], base / "00042")
    for name in (".tmp-99", "99.old", "latest", "0x63"):
        shutil.copytree(exported[2], base / name)
    with ModelServer("--model_name=m", f"--model_base_path={base}", *FLAGS) as server:
        server.wait_until_open()
        assert server.states("m") == {42: "AVAILABLE"}
        base.rename(tmp_path / "gone")
        time.sleep(0.5)
        assert score(server) == 100.0
        (tmp_path / "gone").rename(base)
        shutil.rmtree(base / "00042")  # the last version: this is a wish, and is granted
        server.wait_for_states("m", {42: "END"})
        assert server.predict("m", {"instances": [ROW]})[0] == 404
        publish(exported[2], base / "43")
        server.wait_for_states("m", {43: "AVAILABLE"})
        assert score(server) == 200.0


def test_the_config_file_is_followed_and_survives_a_restart(exported: dict[int, Path], tmp_path: Path):
    base, config = tmp_path / "m", tmp_path / "models.config"
    for number in (1, 2):
        publish(exported[number], base / str(number))
    specific(base, 1, stable=1).write(config)
    flags = (f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=0.1", *FLAGS)
    with ModelServer(*flags) as server:
        server.wait_until_open()
        config.write_text("model_config_list { config { nmae: 'm' } }")
        time.sleep(0.5)
        assert score(server, "m/labels/stable") == 100.0  # a file that cannot be read changes nothing
        specific(base, 1, 2, stable=1).write(config)
        server.wait_for_states("m", {2: "AVAILABLE"})
        specific(base, 1, 2, stable=2).write(config)
        wait_for(lambda: server.client.metadata("m", label="stable")[0] == 2, 10)
        before = server.states("m")
        assert server.stop() == 0
    assert "PollFilesystemAndReloadConfig failed to ReloadConfig: The model config cannot be parsed." in server.log
    with ModelServer(*flags) as server:
        server.wait_until_open()
        server.wait_for_states("m", before)
        assert server.client.metadata("m", label="stable")[0] == 2
        assert score(server, "m/labels/stable") == 200.0
