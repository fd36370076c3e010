"""Which directories are versions, and what happens to a version next."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_mlops.engine.serving.config import ModelConfig
from airflow_mlops.engine.serving.server.errors import ServingError
from airflow_mlops.engine.serving.server.lifecycle import State, Version, next_action
from airflow_mlops.engine.serving.server.versions import find_versions


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in ("1", "2", "00010", ".tmp-11", "12.old", "v13", "1e3", "99999999999999999999", "-3", "+5"):
        (tmp_path / name).mkdir()
    (tmp_path / "20").write_text("a file with a number for a name counts, as in the real server")
    return tmp_path


def names(found: dict[int, Path]) -> dict[int, str]:
    return {number: path.name for number, path in found.items()}


def test_policies(base: Path):
    def find(**policy: object) -> dict[int, str]:
        return names(find_versions(ModelConfig("m", str(base), **policy)))

    assert find(policy="all") == {-3: "-3", 1: "1", 2: "2", 5: "+5", 10: "00010", 20: "20"}
    assert find(policy="latest") == {20: "20"}
    assert find(policy="latest", num_versions=3) == {20: "20", 10: "00010", 5: "+5"}
    assert find(versions=(1, 2)) == {1: "1", 2: "2"}
    assert find(versions=(1, 10, 77)) == {1: "1", 10: "00010"}
    assert find(versions=()) == {}


def test_two_directories_of_one_version(base: Path, caplog: pytest.LogCaptureFixture):
    (base / "0001").mkdir()
    found = find_versions(ModelConfig("m", str(base), policy="all"))
    assert found[1].name == "1"
    assert (
        "Duplicate version directories detected. Version 1 will be loaded from 1, 0001 will be ignored." in caplog.text
    )


def test_no_base_path_is_not_no_versions(tmp_path: Path):
    assert find_versions(ModelConfig("m", str(tmp_path), policy="all")) == {}
    with pytest.raises(ServingError, match="Could not find base path"):
        find_versions(ModelConfig("m", str(tmp_path / "gone"), policy="all"))


W, L = True, False  # wanted, left over


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([], None),
        ([(1, W, State.START)], ("load", 1)),
        ([(1, W, State.START), (2, W, State.START)], ("load", 2)),
        ([(1, W, State.LOADING), (2, W, State.END)], None),
        ([(1, L, State.AVAILABLE), (2, W, State.START)], ("load", 2)),
        ([(1, L, State.AVAILABLE), (2, W, State.LOADING)], None),
        ([(1, L, State.AVAILABLE), (2, W, State.END)], None),
        ([(1, L, State.AVAILABLE), (2, W, State.AVAILABLE)], ("unload", 1)),
        ([(1, L, State.UNLOADING), (2, W, State.AVAILABLE)], None),
        ([(1, L, State.AVAILABLE), (2, L, State.AVAILABLE), (3, W, State.LOADING)], ("unload", 1)),
        ([(1, L, State.AVAILABLE)], ("unload", 1)),
        ([(1, L, State.LOADING)], None),
        ([(1, L, State.AVAILABLE), (2, W, State.AVAILABLE), (3, W, State.START)], ("unload", 1)),
    ],
    ids=[
        "nothing", "load", "newest first", "busy or failed", "load beside the old", "keep while the new loads",
        "keep when the new failed", "unload when the new serves", "unloading", "never two left over", "none wanted",
        "cannot stop a load", "unload before the next load",
    ],
)  # fmt: skip
def test_what_happens_next(versions: list[tuple[int, bool, State]], expected: tuple[str, int] | None):
    action = next_action(
        Version("m", number, Path(), state=state, aspired=aspired) for number, aspired, state in versions
    )
    assert (action and (action.kind, action.version.number)) == expected
