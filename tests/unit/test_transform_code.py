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
    return code_identity(entrypoint, [str(folder) for folder in folders]).whole


def run(folders: tuple[Path, Path]) -> tuple[int, str]:
    function, code = load_transform("own_transform:compute", [str(folder) for folder in folders])
    return function(None, None), code.whole


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


BY_VIEW = """
import json
from own_units import FACTOR
import own_other

LIMIT = 3
UNUSED = 4


def compute(day, data):
    sales, prices = data["sales"], data["prices"]
    scaled = scale(sales)
    total = own_other.total(prices)
    return {"shop_sales": scaled, "item_price": price(total)}


def scale(rows):
    return rows * FACTOR


def price(total):
    return min(total, LIMIT)
"""


@pytest.fixture
def by_view(folders):
    """A transform that makes two feature views, and a module beside it for each."""
    (folders[1] / "own_transform.py").write_text(BY_VIEW)
    (folders[1] / "own_other.py").write_text("def total(prices): return sum(prices)\n")
    return folders


def changed(folders: tuple[Path, Path], file: str, old: str, new: str) -> set[str]:
    """Return the views whose code is another one after an edit."""
    paths = [str(folder) for folder in folders]
    before = code_identity("own_transform:compute", paths)
    path = folders[1] / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    after = code_identity("own_transform:compute", paths)
    return {view for view in ("shop_sales", "item_price") if before.of(view) != after.of(view)}


@pytest.mark.parametrize(
    ("file", "old", "new", "views"),
    [
        ("own_transform.py", "rows * FACTOR", "rows / FACTOR", {"shop_sales"}),
        ("own_transform.py", "LIMIT = 3", "LIMIT = 5", {"item_price"}),
        ("own_transform.py", "scaled = scale(sales)", "scaled = scale(sales + 1)", {"shop_sales"}),
        ("own_transform.py", 'data["prices"]', 'data["costs"]', {"shop_sales", "item_price"}),
        ("own_transform.py", "    scaled = ", "    data.clear()\n    scaled = ", {"shop_sales", "item_price"}),
        ("own_transform.py", "UNUSED = 4", "UNUSED = 5", set()),
        ("own_units.py", "3", "4", {"shop_sales"}),
        ("own_other.py", "sum(prices)", "max(prices)", {"item_price"}),
        ("own_transform.py", "import json\n", "import json\nprint(json)\n", {"shop_sales", "item_price"}),
    ],
)
def test_a_view_is_the_code_that_makes_it(by_view, file, old, new, views):
    assert changed(by_view, file, old, new) == views


def test_a_view_that_is_added_beside_others_changes_none_of_them(by_view):
    added = 'price(total), "shop_sales_v2": better(sales)}\n\n\ndef better(rows):\n    return rows * 7\n'
    assert changed(by_view, "own_transform.py", "price(total)}", added) == set()
    code = code_identity("own_transform:compute", [str(folder) for folder in by_view])
    assert sorted(code.views) == ["item_price", "shop_sales", "shop_sales_v2"]


@pytest.mark.parametrize(
    "last",
    [
        'return {"shop_sales": scaled, **others(total)}',
        "return dict(shop_sales=scaled)",
        'if not day:\n        return {}\n    return {"shop_sales": scaled, "item_price": price(total)}',
    ],
)
def test_where_the_parts_cannot_be_told_all_of_the_code_counts(by_view, last):
    path = by_view[1] / "own_transform.py"
    path.write_text(BY_VIEW.replace('return {"shop_sales": scaled, "item_price": price(total)}', last))
    code = code_identity("own_transform:compute", [str(folder) for folder in by_view])
    assert code.views == {}
    assert code.of("shop_sales") == code.whole


def test_the_example_tells_its_views_apart():
    from tests.feast_fixtures import CODE, REPO

    code = code_identity("flight_features:compute", [CODE, str(REPO)])
    assert len(set(code.views.values())) == len(code.views) == 6
