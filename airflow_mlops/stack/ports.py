"""The ports of a stack: where they come from, and whether they are free."""

from __future__ import annotations

import socket
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, fields

from airflow_mlops.exceptions import ConfigError

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Ports:
    """TCP ports on the loopback interface; nothing of the stack listens anywhere else."""

    airflow: int = 8080
    mlflow: int = 5000
    serving_grpc: int = 8500
    serving_rest: int = 8501
    logs: int = 8793

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], default: Ports) -> Ports:
        """Read ``AIRFLOW_PORT``, ``MLFLOW_PORT``, ``SERVING_GRPC_PORT``, ``SERVING_REST_PORT`` and ``LOGS_PORT``.

        :param default: Ports for those that are not set.
        :raises ConfigError: when one of them is not a port number.
        """
        chosen = default.as_dict()
        for field in fields(cls):
            text = environ.get(variable(field.name), "")
            if text and not (text.isdigit() and 0 < int(text) < 65536):
                raise ConfigError(
                    f"{variable(field.name)}={text!r} is not a port number.",
                    hint="Give a whole number from 1 to 65535, or unset it.",
                )
            if text:
                chosen[field.name] = int(text)
        return cls(**chosen)

    @classmethod
    def free(cls) -> Ports:
        """Return ports that nobody uses at this moment."""
        listeners = [socket.create_server((HOST, 0)) for _ in fields(cls)]
        numbers = [listener.getsockname()[1] for listener in listeners]
        for listener in listeners:
            listener.close()
        return cls(*numbers)

    def as_dict(self) -> dict[str, int]:
        """Return port by name."""
        return asdict(self)


PURPOSES = {
    "airflow": "the Airflow UI and API",
    "mlflow": "the MLflow tracking server",
    "serving_grpc": "gRPC of the model server",
    "serving_rest": "REST of the model server",
    "logs": "the logs of tasks that run or wait",
}

PUBLISHED = ("airflow", "mlflow", "serving_grpc", "serving_rest")
"""Ports of ``docker/compose.yaml``, by the same names; there, workers serve their logs inside of its network."""


def loopback() -> str:
    """Return the host under which Airflow's components find each other here: see ``[core] hostname_callable``."""
    return HOST


def variable(name: str) -> str:
    """Return the environment variable of a port: ``AIRFLOW_PORT`` for ``airflow``."""
    return f"{name.upper()}_PORT"


def require_free(ports: Ports, names: Container[str]) -> None:
    """Refuse ports that cannot be listened on, all in one message.

    :param names: Which of the ports are about to be used.
    :raises ConfigError: which port, for what, and how to choose another.
    """
    numbers = ports.as_dict()
    problems, changes = [], []
    seen: dict[int, str] = {}
    for name, purpose in PURPOSES.items():
        port = numbers[name]
        if port in seen:
            problems.append(f"port {port} is asked for by {seen[port]} and by {purpose}")
        elif name in names and not _is_free(port):
            problems.append(f"port {port}, for {purpose}, is in use by another program")
        else:
            seen[port] = purpose
            continue
        other = next(n for n in range(10000 + port % 40000, 65536) if n not in seen and _is_free(n))
        seen[other] = purpose
        changes.append(f"{variable(name)}={other}")
    if problems:
        raise ConfigError(
            f"The stack cannot start: {'a port is' if len(problems) == 1 else 'ports are'} taken.",
            detail="; ".join(problems),
            hint=f"Stop what uses it, or choose other ports in the environment: {' '.join(changes)}",
        )


def _is_free(port: int) -> bool:
    """Try to listen: the only question whose answer is what the server will meet."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True
