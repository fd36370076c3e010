"""The model server's configuration: which versions of which models it holds, and where labels point.

The file is TensorFlow Serving's ``--model_config_file`` (a ``ModelServerConfig`` in text format), read and
written as a whole: what is not in it gets unloaded. Fields that this package has no word for
(``logging_config``) are accepted in a file and not written back.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from google.protobuf import text_format

from airflow_mlops.engine.serving.protos import config_pb2 as pb
from airflow_mlops.exceptions import ConfigError, TransientError, did_you_mean

Policy = Literal["specific", "latest", "all"]
PLATFORM = "tensorflow"


@dataclass(frozen=True)
class ModelConfig:
    """One model of a server.

    :param name: Name in requests.
    :param base_path: Absolute path or URI of the folder whose numeric children are the versions.
    :param versions: Versions to hold, with policy ``specific``.
    :param labels: Label → version.
    :param policy: ``specific`` (production), ``latest`` (the newest ``num_versions``) or ``all``.
    :param num_versions: How many, with policy ``latest``.
    """

    name: str
    base_path: str
    versions: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    policy: Policy = "specific"
    num_versions: int = 1

    @classmethod
    def from_proto(cls, proto: pb.ModelConfig) -> Self:
        """Read one model of a ``ModelServerConfig``; no policy means the latest one version."""
        policy = proto.model_version_policy
        labels = dict(proto.version_labels)
        match policy.WhichOneof("policy_choice"):
            case "specific":
                return cls(proto.name, proto.base_path, tuple(sorted(set(policy.specific.versions))), labels)
            case "all":
                return cls(proto.name, proto.base_path, labels=labels, policy="all")
            case _:
                count = max(policy.latest.num_versions, 1)
                return cls(proto.name, proto.base_path, labels=labels, policy="latest", num_versions=count)

    def to_proto(self) -> pb.ModelConfig:
        """Return the message."""
        proto = pb.ModelConfig(name=self.name, base_path=self.base_path, model_platform=PLATFORM)
        match self.policy:
            case "specific":
                proto.model_version_policy.specific.SetInParent()
                proto.model_version_policy.specific.versions.extend(self.versions)
            case "latest":
                proto.model_version_policy.latest.num_versions = self.num_versions
            case "all":
                proto.model_version_policy.all.SetInParent()
        proto.version_labels.update(self.labels)
        return proto


@dataclass(frozen=True)
class ServerConfig:
    """The complete configuration of one server."""

    models: tuple[ModelConfig, ...] = ()

    def model(self, name: str) -> ModelConfig | None:
        """Return the configuration of one model, or None."""
        return next((model for model in self.models if model.name == name), None)

    def with_model(self, model: ModelConfig) -> Self:
        """Return a copy in which ``model`` takes the place of the one of the same name, or is added."""
        others = tuple(other for other in self.models if other.name != model.name)
        return type(self)(tuple(sorted((*others, model), key=lambda entry: entry.name)))

    def without_model(self, name: str) -> Self:
        """Return a copy that lacks the model."""
        return type(self)(tuple(model for model in self.models if model.name != name))

    @classmethod
    def from_proto(cls, proto: pb.ModelServerConfig) -> Self:
        """Read the message, refusing what a model server refuses.

        :raises ConfigError: with the model server's own words as its headline.
        """
        if proto.WhichOneof("config") == "custom_model_config":
            raise ConfigError(
                "Missing custom_model_config_loader in ServerCore Options",
                detail="the configuration is a custom_model_config",
                hint="Write a model_config_list.",
            )
        seen: set[str] = set()
        for model in proto.model_config_list.config:
            _check(model, seen)
            seen.add(model.name)
        return cls(tuple(ModelConfig.from_proto(model) for model in proto.model_config_list.config))

    def to_proto(self) -> pb.ModelServerConfig:
        """Return the message."""
        proto = pb.ModelServerConfig()
        proto.model_config_list.SetInParent()
        proto.model_config_list.config.extend(model.to_proto() for model in self.models)
        return proto

    @classmethod
    def from_text(cls, text: str, source: str = "text") -> Self:
        """Parse the text format. ``source`` names the place in errors.

        :raises ConfigError: on a syntax error, an unknown field, or a model that no server would take.
        """
        return cls.from_proto(parse(text, source))

    def to_text(self) -> str:
        """Return the text format."""
        return text_format.MessageToString(self.to_proto())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a config file.

        :raises ConfigError: when it does not exist or cannot be parsed.
        :raises TransientError: when it exists and cannot be read.
        """
        return cls.from_text(read_text(path), str(path))

    def write(self, path: Path) -> None:
        """Put the file in place by one atomic rename: a reader sees the old configuration or the new one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".tmp-{path.name}-", encoding="utf-8", delete=False
        ) as file:
            temporary = Path(file.name)
            try:
                file.write(self.to_text())
                file.flush()
                os.fsync(file.fileno())
                temporary.chmod(0o644)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise


def read_text(path: Path) -> str:
    """Return the text of a config file, or say in words why there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            "The model config file does not exist.",
            detail=str(path),
            hint="Create it (an empty file is a valid configuration), or correct --model_config_file.",
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            "The model config file is not text.",
            detail=f"{path}: {error.reason} at byte {error.start}",
            hint="It must be a ModelServerConfig in protobuf text format.",
        ) from None
    except OSError as error:
        raise TransientError("The model config file cannot be read.", detail=f"{path}: {error}") from error


def parse(text: str, source: str) -> pb.ModelServerConfig:
    """Parse the text format into the message, without judging what it says."""
    try:
        return text_format.Parse(text, pb.ModelServerConfig())
    except text_format.ParseError as error:
        raise ConfigError(
            "The model config cannot be parsed.",
            detail=f"{source}: {error}",
            hint="It must be a ModelServerConfig in text format, e.g. "
            'model_config_list { config { name: "m" base_path: "/models/m" model_platform: "tensorflow" } }',
        ) from None


def _check(model: pb.ModelConfig, seen: set[str]) -> None:
    """Refuse what the model server refuses, in its words (``server_core.cc``)."""
    where = f"model {model.name!r}, base_path {model.base_path!r}"
    if not model.name:
        raise ConfigError("A model in the config list has no name.", detail=where, hint="Give it one.")
    if model.name in seen:
        raise ConfigError(
            f"Illegal to list model {model.name} multiple times in config list",
            detail=where,
            hint="List each model once, with all its versions.",
        )
    if not urlsplit(model.base_path).scheme and not model.base_path.startswith("/"):
        raise ConfigError(
            f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}",
            detail=where,
            hint="Write the whole path, from / on.",
        )
    _check_platform(model, where)


def _check_platform(model: pb.ModelConfig, where: str) -> None:
    hint = f'Write model_platform: "{PLATFORM}".'
    if model.model_type and model.model_platform:
        raise ConfigError(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and "
            f"ModelServerConfig::model_platform, model name is {model.name}",
            detail=where,
            hint=hint,
        )
    if model.model_type == pb.OTHER:
        raise ConfigError(
            f"ModelServerConfig::model_type choice {model.model_type} not supported.", detail=where, hint=hint
        )
    if not model.model_type and not model.model_platform:
        raise ConfigError(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {model.name}",
            detail=where,
            hint=hint,
        )
    if model.model_platform not in {"", PLATFORM}:
        raise ConfigError(
            f"Model {model.name} requests unsupported platform {model.model_platform}",
            detail=where,
            hint=hint + did_you_mean(model.model_platform, [PLATFORM]),
        )
