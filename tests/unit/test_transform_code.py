"""Which code a transform is: what it does counts, and what lies beside it; words about it do not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from airflow_mlops.engine.entrypoints import load_object
from airflow_mlops.engine.features.computing.code import code_identity, import_folders, load_transform
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.exceptions import ConfigError

MODULE = '''
"""What it is about."""
import json
from own_units import FACTOR


def compute(day, data):
    """Compute a day."""
    return FACTOR * 2  # twice
'''


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The folders of the DAG file and of the Feast repository, with a transform in the latter."""
    dags, repo = tmp_path / "dags", tmp_path / "repo"
    for folder in (dags, repo):
        folder.mkdir()
    (repo / "own_transform.py").write_text(MODULE)
    (repo / "own_units.py").write_text("FACTOR = 3\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield dags, repo
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def identity(folders: tuple[Path, Path], entrypoint: str = "own_transform:compute") -> str:
    return code_identity(entrypoint, [str(folder) for folder in folders])


def run(folders: tuple[Path, Path]) -> tuple[int, str]:
    function, code = load_transform("own_transform:compute", [str(folder) for folder in folders])
    return function(None, None), code


def test_comments_docstrings_and_layout_do_not_count(folders):
    before = identity(folders)
    text = MODULE.replace("# twice", "# two times").replace("a day", "one day").replace("about", "for")
    (folders[1] / "own_transform.py").write_text(text.replace("FACTOR * 2", "(FACTOR   *\n        2)"))
    assert identity(folders) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("own_transform.py", "* 2", "* 3"),
        ("own_transform.py", "day, data", "day, rows"),
        ("own_units.py", "3", "4"),
    ],
)
def test_what_it_does_counts_in_the_modules_beside_it_too(folders, file, old, new):
    before = identity(folders)
    path = folders[1] / file
    path.write_text(path.read_text().replace(old, new))
    assert identity(folders) != before


def test_another_function_or_place_of_the_module(folders, tmp_path):
    before = identity(folders)
    assert identity(folders, "own_transform:other") != before
    (folders[1] / "own_transform.py").rename(folders[0] / "own_transform.py")
    assert identity(folders) == before, "where it lies does not count"
    (folders[1] / "unused.py").write_text("X = 1\n")
    assert identity(folders) == before


def test_packages_are_followed_by_absolute_and_relative_imports_anywhere_in_the_code(folders):
    package = folders[0] / "own_package"
    (package / "deep").mkdir(parents=True)
    files = {
        "__init__.py": "",
        "main.py": "from . import near\nfrom .deep.far import f\n\ndef compute():\n    import own_package.late\n",
        "near.py": "A = 1\n",
        "late.py": "A = 1\n",
        "deep/__init__.py": "",
        "deep/far.py": "from ..further import g as f\n",
        "further.py": "def g(): return 1\n",
        "unused.py": "A = 1\n",
    }
    for name, text in files.items():
        (package / name).write_text(text)
    seen = {identity(folders, "own_package.main:compute")}
    for name in files:
        path = package / name
        path.write_text(path.read_text() + "B = 2\n")
        seen.add(identity(folders, "own_package.main:compute"))
    assert len(seen) == len(files), "every file but the unused one"


def test_a_module_that_is_in_both_folders_is_refused(folders):
    (folders[0] / "own_units.py").write_text("FACTOR = 5\n")
    with pytest.raises(ConfigError, match=r"There are 2 modules 'own_units'(.|\n)*dags/own_units.py and .*repo/own_"):
        identity(folders)
    (folders[0] / "own_transform.py").write_text(MODULE)
    with pytest.raises(ConfigError, match="There are 2 modules 'own_transform'"):
        load_object("own_transform:compute", *map(str, folders))


def test_an_edit_is_seen_by_the_process_that_imported_it_before(folders):
    first = run(folders)
    assert first == (6, identity(folders))
    (folders[1] / "own_units.py").write_text("FACTOR = 30  # an edit beside it\n")
    second = run(folders)
    assert second == (60, identity(folders))
    assert second[1] != first[1]


def test_a_module_of_the_same_name_from_elsewhere_does_not_stand_in(folders, tmp_path):
    run(folders)
    other = tmp_path / "other"
    other.mkdir()
    (other / "own_transform.py").write_text(MODULE.replace("* 2", "* 5"))
    (other / "own_units.py").write_text("FACTOR = 1\n")
    assert run((other, other))[0] == 5
    assert run(folders)[0] == 6, "nor when both are on the path"


def test_what_is_not_there_is_explained(folders):
    with pytest.raises(ConfigError, match=r"Cannot find the module of 'own_transfrom:compute'(.|\n)*dags, .*repo"):
        load_transform("own_transfrom:compute", [str(folder) for folder in folders])
    with pytest.raises(ConfigError, match=r"has no 'comptue'\. Did you mean 'compute'"):
        load_transform("own_transform:comptue", [str(folder) for folder in folders])


def test_a_registry_alone_has_no_folder_of_definitions(tmp_path):
    assert import_folders("/dags", Location(None, tmp_path)) == ["/dags"]
    assert import_folders("/dags", Location(tmp_path / "repo", tmp_path)) == ["/dags", str(tmp_path / "repo")]
