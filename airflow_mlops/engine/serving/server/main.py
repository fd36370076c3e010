"""``airflow-mlops serve``: start, serve until told to stop, stop cleanly."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import uvicorn

from airflow_mlops.engine.serving import config
from airflow_mlops.engine.serving.protos import config_pb2
from airflow_mlops.engine.serving.server import flags as command_line
from airflow_mlops.engine.serving.server import grpc_api
from airflow_mlops.engine.serving.server.errors import ServingError
from airflow_mlops.engine.serving.server.flags import Flags
from airflow_mlops.engine.serving.server.lifecycle import LoadOptions
from airflow_mlops.engine.serving.server.manager import ModelManager
from airflow_mlops.engine.serving.server.rest_api import RestApi
from airflow_mlops.exceptions import ConfigError, MlopsError

_log = logging.getLogger("airflow_mlops.serving")
_GRACE_SECONDS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status: 0, or 1 when the server could not start."""
    flags = command_line.parse(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # TensorFlow's own INFO and WARNING lines repeat what the answers say; asked for, they still come.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        _Server(flags).run()
    except MlopsError as error:
        sys.stderr.write(f"Failed to start server. {error}\n")
        return 1
    except ServingError as error:
        sys.stderr.write(f"Failed to start server. Error: {error}\n")
        return 1
    return 0


class _Server:
    """The parts of the process, and the order in which they start and stop."""

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._stopping = threading.Event()
        self._manager = ModelManager(
            LoadOptions(
                retries=flags.max_num_load_retries,
                retry_interval=flags.load_retry_interval_micros / 1e6,
                tags=tuple(flags.saved_model_tags.split(",")),
                threads=flags.tensorflow_intra_op_parallelism or flags.tensorflow_session_parallelism,
            ),
            load_threads=flags.num_load_threads,
            unload_threads=flags.num_unload_threads,
            allow_labels_for_unavailable=flags.allow_version_labels_for_unavailable_models,
        )

    def run(self) -> None:
        """Load the first models, open the ports, serve, and stop on a signal.

        :raises ConfigError: on a configuration that cannot work.
        :raises ServingError: when a model of the first configuration cannot be loaded.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        first = self._first_config()
        self._check_ports()
        try:
            # The polls must run while the first models are waited for: their base path may still be empty.
            self._every(self._flags.file_system_poll_wait_seconds, self._manager.poll)
            self._manager.reload(first, waiting=lambda: not self._stopping.is_set())
            if not self._stopping.is_set():
                self._serve()
        finally:
            self._stopping.set()
            self._manager.close()

    def _serve(self) -> None:
        if self._flags.model_config_file:
            self._every(self._flags.model_config_file_poll_wait_seconds, self._reread_config)
        server = self._start_grpc()
        try:
            if self._flags.rest_api_port:
                self._run_rest()
            self._stopping.wait()
        finally:
            _log.info("Stopping.")
            server.stop(_GRACE_SECONDS).wait()

    def _start_grpc(self) -> grpc.Server:
        flags = self._flags
        addresses = [f"{flags.bind_address}:{flags.port}"] if flags.port else []
        if flags.grpc_socket_path:
            addresses.append(f"unix:{flags.grpc_socket_path}")
        server = grpc_api.start(
            self._manager,
            addresses,
            threads=flags.grpc_max_threads,
            as_content=flags.enable_serialization_as_tensor_content,
            arguments=_channel_arguments(flags.grpc_channel_arguments),
        )
        for address in addresses:
            _log.info("Running gRPC ModelServer at %s ...", address)
        return server

    def _run_rest(self) -> None:
        """Serve REST in this thread until a signal comes."""
        flags = self._flags
        with ThreadPoolExecutor(flags.rest_api_num_threads, "rest") as executor:
            app = RestApi(
                self._manager,
                executor,
                timeout=flags.rest_api_timeout_in_ms / 1000,
                cors=flags.rest_api_enable_cors_support,
            )
            _log.info("Exporting HTTP/REST API at:%s:%d ...", flags.bind_address, flags.rest_api_port)
            uvicorn.Server(
                uvicorn.Config(
                    app,
                    host=flags.bind_address,
                    port=flags.rest_api_port,
                    loop="uvloop",
                    http="httptools",
                    interface="asgi3",
                    lifespan="off",
                    access_log=False,
                    log_level="warning",
                    proxy_headers=False,
                    server_header=False,
                    date_header=False,
                    timeout_graceful_shutdown=_GRACE_SECONDS,
                )
            ).run()

    # --- configuration ------------------------------------------------------------------------------------

    def _first_config(self) -> config_pb2.ModelServerConfig:
        flags = self._flags
        if flags.model_config_file:
            return self._read_config()
        if not flags.model_base_path:
            raise ConfigError(
                "Both model_base_path and model_config_file are empty!",
                hint="Pass --model_config_file=FILE, or --model_name=NAME --model_base_path=/ABSOLUTE/PATH.",
            )
        proto = config_pb2.ModelServerConfig()
        proto.model_config_list.config.add(
            name=flags.model_name, base_path=flags.model_base_path, model_platform=config.PLATFORM
        )
        return proto

    def _read_config(self) -> config_pb2.ModelServerConfig:
        path = Path(self._flags.model_config_file)
        return config.parse(config.read_text(path), str(path))

    def _reread_config(self) -> None:
        """Follow the config file. A file that cannot be used is logged, and what is in force stays."""
        try:
            self._manager.reload(self._read_config(), waiting=lambda: not self._stopping.is_set())
        except (MlopsError, ServingError) as error:
            _log.error("PollFilesystemAndReloadConfig failed to ReloadConfig: %s", error)

    # --- helpers ------------------------------------------------------------------------------------------

    def _check_ports(self) -> None:
        """Fail on a clash of ports now, not after minutes of loading."""
        flags = self._flags
        if not flags.port and not flags.grpc_socket_path:
            raise ConfigError("At least one of port or grpc_socket_path must be set.", hint="Pass --port=8500.")
        if flags.port == flags.rest_api_port and flags.port:
            raise ConfigError(f"gRPC and REST cannot share port {flags.port}.", hint="Choose another --rest_api_port.")
        for name, port in (("port", flags.port), ("rest_api_port", flags.rest_api_port)):
            if port:
                _check_free(flags.bind_address, port, name)

    def _every(self, seconds: float, work: Callable[[], None]) -> None:
        """Do something again and again, in the background, until the server stops. 0 seconds: never."""

        def repeat() -> None:
            while not self._stopping.wait(seconds):
                try:
                    work()
                except Exception:
                    _log.exception("A background task failed; it goes on at its next turn.")

        if seconds > 0:
            threading.Thread(target=repeat, name=getattr(work, "__name__", "poll"), daemon=True).start()


def _check_free(address: str, port: int, flag: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.strip("[]"), port))
        except OSError as error:
            raise ConfigError(
                f"Port {port} cannot be used.",
                detail=f"{address}:{port}: {error.strerror}",
                hint=f"Stop what listens there, or choose another --{flag}.",
            ) from error


def _channel_arguments(text: str) -> list[tuple[str, int | str]]:
    arguments: list[tuple[str, int | str]] = []
    for pair in filter(None, text.split(",")):
        key, _, value = pair.partition("=")
        arguments.append((key, int(value) if value.lstrip("-").isdigit() else value))
    return arguments


if __name__ == "__main__":
    sys.exit(main())
