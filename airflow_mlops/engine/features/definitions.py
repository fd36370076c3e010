"""The Python definitions of a Feast repository, loaded without a trace in the process that loads them."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.engine.features.location import Location
from airflow_mlops.exceptions import ConfigError, MlopsError

if TYPE_CHECKING:
    from feast.repo_contents import RepoContents


def load_definitions(location: Location, project: str) -> RepoContents:
    """Return all that the Python files of a repository define; they see the home folder as ``MLOPS_HOME``.

    :param project: Name of the project, for a repository that does not define it itself.
    :raises ConfigError: when a file cannot be imported.
    """
    from feast import Project, repo_operations

    folder = location.repo.resolve()
    with _importable(folder, location.home), redirect_stdout(io.StringIO()):
        try:
            contents = repo_operations.parse_repo(folder)
        except MlopsError:
            raise
        except Exception as error:
            raise ConfigError(
                "The feature repository cannot be loaded.",
                detail=f"{location.repo}: {type(error).__name__}: {error}",
                hint="Its Python files must import on their own; try `feast apply` in that folder.",
            ) from error
    if not contents.projects:
        contents.projects.append(Project(name=project))
    return contents


def definition_files(repo_path: Path) -> list[Path]:
    """Return the Python files of a repository, relative to it; hidden folders, such as a ``.venv``, do not count."""
    files = (path.relative_to(repo_path) for path in repo_path.rglob("*.py"))
    return sorted(file for file in files if not any(part.startswith(".") for part in file.parts))


@contextmanager
def _importable(repo_path: Path, home: Path) -> Iterator[None]:
    """Give Feast what it takes for granted when it imports definitions, and put everything back.

    It resolves modules against the working folder; and a module imported before an edit, or one of the same
    name from elsewhere, must not stand in for the file that is there now.
    """
    names = [".".join(f.with_suffix("").parts).removesuffix(".__init__") for f in definition_files(repo_path)]
    hidden = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    folder, path, bytecode = Path.cwd(), list(sys.path), sys.dont_write_bytecode
    variable = os.environ.get("MLOPS_HOME")
    os.environ["MLOPS_HOME"] = str(home)
    sys.path.insert(0, str(repo_path))
    sys.dont_write_bytecode = True
    os.chdir(repo_path)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        os.chdir(folder)
        sys.path[:], sys.dont_write_bytecode = path, bytecode
        if variable is None:
            del os.environ["MLOPS_HOME"]
        else:
            os.environ["MLOPS_HOME"] = variable
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)
