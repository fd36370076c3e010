"""The command line of ``airflow-mlops serve``."""

from __future__ import annotations

import pytest

from airflow_mlops.engine.serving.server import flags


def test_defaults_are_those_of_the_real_server():
    parsed = flags.parse([])
    assert (parsed.port, parsed.rest_api_port, parsed.rest_api_timeout_in_ms) == (8500, 0, 30000)
    assert (parsed.num_load_threads, parsed.max_num_load_retries, parsed.load_retry_interval_micros) == (0, 5, 60000000)
    assert parsed.file_system_poll_wait_seconds == 1
    assert parsed.model_config_file_poll_wait_seconds == 0
    assert not parsed.allow_version_labels_for_unavailable_models
    assert parsed.model_name == "default"


def test_the_line_of_a_deployment():
    parsed = flags.parse(
        [
            "--port=1",
            "--rest_api_port=2",
            "--model_config_file=/m.config",
            "--model_config_file_poll_wait_seconds=10",
            "--allow_version_labels_for_unavailable_models=true",
            "--num_load_threads=2",
            "--num_unload_threads=2",
            "--max_num_load_retries=1",
            "--load_retry_interval_micros=2000000",
            "--monitoring_config_file=/x",
            "--enable_batching",
            "--enable_model_warmup=false",
        ]
    )
    assert parsed.allow_version_labels_for_unavailable_models is True
    assert (parsed.port, parsed.rest_api_port, parsed.num_load_threads) == (1, 2, 2)
    assert not flags.parse(["--rest_api_enable_cors_support=false"]).rest_api_enable_cors_support
    assert flags.parse(["--rest_api_enable_cors_support"]).rest_api_enable_cors_support


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--rest_port=1", "unknown flag: --rest_port=1. Did you mean 'rest_api_port'?"),
        ("--model_config=x", "Did you mean 'model_config_file'?"),
        ("stray", "unknown flag: stray."),
        ("--ssl_config_file=x", "a flag of TensorFlow Serving that this server does not support"),
        ("--port=many", "--port: invalid int value: 'many'"),
        ("--rest_api_enable_cors_support=maybe", "'maybe' is neither true nor false"),
    ],
)
def test_mistakes_end_the_process(flag: str, says: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        flags.parse([flag])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_help_names_what_has_no_effect(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        flags.parse(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--enable_batching [...] no effect: requests are not batched" in text
    assert "--bind_address" in text
