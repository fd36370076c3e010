"""The command line: TensorFlow Serving's flags, those that work here, those that do nothing, and no others."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from airflow_mlops.exceptions import did_you_mean

_DESCRIPTION = """\
Serve SavedModels over gRPC and REST as tensorflow_model_server does, for development and CI. Flags have
TensorFlow Serving's names and defaults, so a command line that works here works there."""
_NO_EFFECT = {
    "batching_parameters_file": "requests are not batched",
    "enable_batching": "requests are not batched",
    "enable_model_warmup": "warm-up files are not run",
    "enable_per_model_batching_parameters": "requests are not batched",
    "enable_profiler": "there is no profiler",
    "flush_filesystem_caches": "caches are left to the kernel",
    "monitoring_config_file": "there are no metrics",
    "num_request_iterations_for_warmup": "warm-up files are not run",
    "per_process_gpu_memory_fraction": "models run on the CPU",
    "remove_unused_fields_from_bundle_metagraph": "only the signatures are kept",
    "tensorflow_inter_op_parallelism": "operators run one after another in the thread of the request",
}
#: Flags of the real server that change what a client gets, and that this one does not have.
_UNSUPPORTED = (
    "enable_grpc_healthcheck_service",
    "enable_signature_method_name_check",
    "mixed_precision",
    "num_tflite_interpreters_per_pool",
    "num_tflite_pools",
    "platform_config_file",
    "prefer_tflite_model",
    "skip_initialize_tpu",
    "ssl_config_file",
    "tensorflow_session_config_file",
    "thread_pool_factory_config_file",
    "use_alts_credentials",
    "xla_cpu_compilation_enabled",
    "xla_gpu_compilation_enabled",
)


class Flags(argparse.Namespace):
    """The flags, typed. Meanings are in ``--help``."""

    bind_address: str
    port: int
    grpc_socket_path: str
    grpc_channel_arguments: str
    grpc_max_threads: int
    rest_api_port: int
    rest_api_num_threads: int
    rest_api_timeout_in_ms: int
    rest_api_enable_cors_support: bool
    enable_serialization_as_tensor_content: bool
    model_config_file: str
    model_config_file_poll_wait_seconds: float
    model_name: str
    model_base_path: str
    file_system_poll_wait_seconds: float
    allow_version_labels_for_unavailable_models: bool
    num_load_threads: int
    num_unload_threads: int
    max_num_load_retries: int
    load_retry_interval_micros: int
    saved_model_tags: str
    tensorflow_session_parallelism: int
    tensorflow_intra_op_parallelism: int


class _Flag(NamedTuple):
    name: str
    default: Any
    help: str


_GROUPS: dict[str, tuple[_Flag, ...]] = {
    "ports": (
        _Flag("bind_address", "127.0.0.1", "address that both ports listen on; not a flag of the real server, which "
              "listens on all: --bind_address=0.0.0.0"),
        _Flag("port", 8500, "gRPC port; 0: none"),
        _Flag("rest_api_port", 0, "REST port; 0: none"),
        _Flag("grpc_socket_path", "", "UNIX socket for gRPC"),
        _Flag("grpc_channel_arguments", "", "arguments of the gRPC server, e.g. grpc.max_connection_age_ms=2000,..."),
        _Flag("grpc_max_threads", 16, "threads that answer gRPC requests"),
        _Flag("rest_api_num_threads", 16, "threads that answer REST predictions"),
        _Flag("rest_api_timeout_in_ms", 30000, "milliseconds for a REST prediction"),
        _Flag("rest_api_enable_cors_support", False, "send CORS headers"),
        _Flag("enable_serialization_as_tensor_content", False, "answer gRPC predictions as tensor_content"),
    ),
    "models": (
        _Flag("model_config_file", "", "ModelServerConfig in text format; --model_name and --model_base_path are "
              "ignored then"),
        _Flag("model_config_file_poll_wait_seconds", 0.0, "seconds between looks at the config file; 0: read once"),
        _Flag("model_name", "default", "name of the one model"),
        _Flag("model_base_path", "", "absolute path of the one model: its folder of numbered versions"),
        _Flag("file_system_poll_wait_seconds", 1.0, "seconds between looks for new versions; 0: only at the start and "
              "at each reload"),
        _Flag("allow_version_labels_for_unavailable_models", False, "let a label that is not in use point to a version "
              "that is not loaded; without it, labels in the config file at the start are refused"),
        _Flag("saved_model_tags", "serve", "comma-separated tags of the graph to load"),
    ),
    "loading": (
        _Flag("num_load_threads", 0, "loads at once; 0: loads, with their retries, and unloads wait for each other"),
        _Flag("num_unload_threads", 0, "unloads at once; 0: as above"),
        _Flag("max_num_load_retries", 5, "tries after the first failure"),
        _Flag("load_retry_interval_micros", 60_000_000, "microseconds between tries"),
        _Flag("tensorflow_session_parallelism", 0, "threads inside operators; 0: one per core"),
        _Flag("tensorflow_intra_op_parallelism", 0, "the same; wins over --tensorflow_session_parallelism"),
    ),
}  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Refuses an unknown flag with the nearest known one."""

    def parse_flags(self, argv: Sequence[str] | None) -> Flags:
        flags, unknown = self.parse_known_args(argv, namespace=Flags())
        for word in unknown:
            name = word.partition("=")[0].lstrip("-")
            if name in _UNSUPPORTED:
                self.error(f"--{name} is a flag of TensorFlow Serving that this server does not support")
            known = [flag.name for group in _GROUPS.values() for flag in group] + list(_NO_EFFECT)
            self.error(f"unknown flag: {word}.{did_you_mean(name, known)}")
        return flags

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nSee {self.prog} --help.\n")


def parse(argv: Sequence[str] | None) -> Flags:
    """Parse the command line; ends the process on ``--help`` and on a mistake (2)."""
    parser = _Parser(
        prog="airflow-mlops serve",
        description=_DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for title, flags in _GROUPS.items():
        group = parser.add_argument_group(title)
        for flag in flags:
            _add(group, flag)
    ignored = parser.add_argument_group("accepted without any effect, so that one command line does for both servers")
    for name, reason in _NO_EFFECT.items():
        ignored.add_argument(f"--{name}", nargs="?", metavar="...", help=f"no effect: {reason}")
    return parser.parse_flags(argv)


def _add(group: Any, flag: _Flag) -> None:
    shown = f"{flag.help} (default: {flag.default!r})"
    if isinstance(flag.default, bool):
        group.add_argument(
            f"--{flag.name}", nargs="?", const=True, default=flag.default, type=_boolean, metavar="BOOL", help=shown
        )
    else:
        kind = type(flag.default)
        metavar = {int: "N", float: "SECONDS", str: "TEXT"}[kind]
        group.add_argument(f"--{flag.name}", default=flag.default, type=kind, metavar=metavar, help=shown)


def _boolean(text: str) -> bool:
    if text.lower() in {"true", "1"}:
        return True
    if text.lower() in {"false", "0"}:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
