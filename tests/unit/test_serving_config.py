"""The model config file: what is written is read back, and what no server would take is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_mlops.engine.serving.config import ModelConfig, ServerConfig
from airflow_mlops.exceptions import ConfigError

CONFIG = ServerConfig(
    (
        ModelConfig("a", "/models/a", (1, 2), {"stable": 1, "canary": 2}),
        ModelConfig("b", "/models/b", policy="latest", num_versions=3),
        ModelConfig("c", "s3://models/c", policy="all"),
        ModelConfig("d", "/models/d"),
    )
)


def test_round_trip_through_a_file(tmp_path: Path):
    path = tmp_path / "config" / "models.config"
    CONFIG.write(path)
    assert ServerConfig.read(path) == CONFIG
    assert path.stat().st_mode & 0o777 == 0o644
    assert [child.name for child in path.parent.iterdir()] == ["models.config"]


def test_no_policy_means_the_latest_version():
    text = 'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow" } }'
    assert ServerConfig.from_text(text).models == (ModelConfig("m", "/m", policy="latest"),)


def test_the_old_way_to_name_the_platform():
    text = 'model_config_list { config { name: "m" base_path: "/m" model_type: TENSORFLOW } }'
    assert ServerConfig.from_text(text).model("m").base_path == "/m"


def test_logging_config_is_accepted():
    text = (
        'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow" '
        "logging_config { sampling_config { sampling_rate: 0.1 } } } }"
    )
    assert ServerConfig.from_text(text).model("m") is not None


def test_an_empty_file_has_no_models():
    assert ServerConfig.from_text("") == ServerConfig(())


def test_with_and_without_a_model():
    changed = CONFIG.with_model(ModelConfig("b", "/elsewhere/b", (7,)))
    assert changed.model("b").versions == (7,)
    assert changed.model("a") == CONFIG.model("a")
    assert changed.without_model("b").model("b") is None
    assert CONFIG.with_model(ModelConfig("0", "/0")).models[0].name == "0"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ('name: "m" name_: "x"', 'has no field named "name_"'),
        ('name: "m" base_path: "m" model_platform: "tensorflow"', "Expected model m to have an absolute path or URI"),
        ('name: "m" base_path: "/m"', "Illegal setting neither ModelServerConfig::model_type"),
        ('name: "m" base_path: "/m" model_platform: "tensorflow" model_type: TENSORFLOW', "Illegal setting both"),
        ('name: "m" base_path: "/m" model_type: OTHER', "model_type choice 2 not supported"),
        ('name: "m" base_path: "/m" model_platform: "tensorfow"', "unsupported platform tensorfow"),
        ('base_path: "/m" model_platform: "tensorflow"', "has no name"),
    ],
)
def test_what_is_refused(config: str, says: str):
    with pytest.raises(ConfigError) as error:
        ServerConfig.from_text(f"model_config_list {{ config {{ {config} }} }}")
    assert says in str(error.value)


def test_a_model_listed_twice_is_refused():
    one = 'config { name: "m" base_path: "/m" model_platform: "tensorflow" }'
    with pytest.raises(ConfigError, match="Illegal to list model m multiple times in config list"):
        ServerConfig.from_text(f"model_config_list {{ {one} {one} }}")


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ConfigError, match="does not exist"):
        ServerConfig.read(tmp_path / "nothing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not text"):
        ServerConfig.read(tmp_path / "binary")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "models.config"
    CONFIG.write(path)
    with pytest.raises(TypeError):
        ServerConfig((ModelConfig("a", "/a", ("one",)),)).write(path)  # type: ignore[arg-type]
    assert ServerConfig.read(path) == CONFIG
    assert list(tmp_path.iterdir()) == [path]
