"""The Python definitions of a Feast repository, loaded without a trace in the process that loads them."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import linecache
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from airflow_mlops.contracts import content_hash
from airflow_mlops.engine.data.files import sha256
from airflow_mlops.engine.features.project.config import feast_config
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import FeatureRepo, describe_objects
from airflow_mlops.engine.features.project.secrets import without_secrets
from airflow_mlops.engine.features.project.settings import read_settings
from airflow_mlops.engine.features.project.store import feast_errors, import_feast, quietly
from airflow_mlops.exceptions import ConfigError, DataError, MlopsError
from airflow_mlops.feature_rules import FeatureRules

if TYPE_CHECKING:
    from feast.repo_contents import RepoContents


class Definitions(NamedTuple):
    """What the Python files of a repository define: for Feast, and how strictly it is looked at."""

    contents: RepoContents
    rules: FeatureRules


def load_definitions(location: Location, project: str) -> Definitions:
    """Return all that the Python files of a repository define; they see the home folder as ``MLOPS_HOME``.

    :param project: Name of the project, for a repository that does not define it itself.
    :raises ConfigError: when a file cannot be imported.
    """
    import_feast()
    from feast import Project, repo_operations

    folder = location.repo_folder.resolve()
    with _importable(folder, location.home), redirect_stdout(io.StringIO()):
        try:
            contents = repo_operations.parse_repo(folder)
            rules = _rules(folder)
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
    return Definitions(contents, rules)


def _rules(folder: Path) -> FeatureRules:
    """Return the rules that the repository sets itself; the files were just imported.

    :raises ConfigError: when it sets several.
    """
    values = (value for name in _modules(folder) if name in sys.modules for value in vars(sys.modules[name]).values())
    found = {id(value): value for value in values if isinstance(value, FeatureRules)}
    if len(found) > 1:
        raise ConfigError(
            "The feature repository sets its rules more than once.",
            detail="; ".join(map(str, found.values())),
            hint="Leave one FeatureRules(...).",
        )
    return next(iter(found.values()), FeatureRules())


def describe_definitions(location: Location, definitions: Definitions, digest: str) -> FeatureRepo:
    """Return what :func:`~airflow_mlops.engine.features.project.schema.describe` would of loaded definitions once they
    are applied, without applying them: Feast completes and checks them against empty stores of their own.

    :param digest: Identity of the files that they were loaded from.
    :raises ConfigError: when Feast refuses them, or a view has no features: Feast would look for them in its files.
    """
    from feast import FeatureStore

    contents = definitions.contents
    _check_schemas(location, contents)
    with tempfile.TemporaryDirectory(prefix="feast-plan-") as folder:
        elsewhere = {
            "registry": {"registry_type": "sql", "path": f"sqlite:///{folder}/registry.db"},
            "online_store": {"type": "sqlite", "path": f"{folder}/online.db"},
        }
        config = feast_config({**read_settings(location), **elsewhere}, location)
        try:
            with quietly(), feast_errors():
                store = FeatureStore(config=config)
                store.plan(contents)
        except DataError as error:
            raise _of_unknown_type(location, contents, error) from None
    return describe_objects(
        config.project,
        digest,
        entities=contents.entities,
        views=contents.feature_views,
        on_demand=contents.on_demand_feature_views,
        services=contents.feature_services,
        rules=definitions.rules,
    )


def _of_unknown_type(location: Location, contents: RepoContents, error: DataError) -> MlopsError:
    """Return what to raise where Feast looked into a view's rows for a type, and there are none yet."""
    from feast import ValueType

    unknown = [
        one for one in contents.entities if one.value_type is ValueType.UNKNOWN and not one.name.startswith("__")
    ]
    if not unknown:
        return error
    names = ", ".join(repr(one.join_key) for one in unknown)
    return ConfigError(
        f"The type of join key {names} is not known.",
        detail=f"{location.repo}: Feast looks for it in the rows, which are not there yet: {error.detail}",
        hint=f'Say it: Entity(name="{unknown[0].name}", join_keys=["{unknown[0].join_key}"], '
        "value_type=ValueType.STRING).",
    )


def _check_schemas(location: Location, contents: RepoContents) -> None:
    """Refuse views without features.

    :raises ConfigError: naming them.
    """
    views = sorted(view.name for view in contents.feature_views if not view.features)
    if views:
        several = len(views) > 1
        raise ConfigError(
            f"feature view{'s' if several else ''} {', '.join(map(repr, views))} {'have' if several else 'has'} "
            "no features: give it a schema.",
            detail=f"{location.repo}: fields that are join keys do not count; files are not looked into",
            hint='Such as schema=[Field(name="delay", dtype=Float64)], or take the view out.',
        )


def definition_files(repo_path: Path) -> list[Path]:
    """Return the Python files of a repository, relative to it; hidden folders, such as a ``.venv``, do not count."""
    files = (path.relative_to(repo_path) for path in repo_path.rglob("*.py"))
    return sorted(file for file in files if not any(part.startswith(".") for part in file.parts))


def _modules(repo_path: Path) -> list[str]:
    """Return the names under which Feast imports the Python files of a repository."""
    return [".".join(f.with_suffix("").parts).removesuffix(".__init__") for f in definition_files(repo_path)]


def files_hash(location: Location) -> str:
    """Identity of what would be applied, and where to: another registry or online store knows nothing of it yet.

    The home counts because the registry holds absolute paths; passwords do not, which change and are secret.
    """
    folder = location.repo_folder
    return content_hash(
        {
            "files": {str(file): sha256(folder / file) for file in definition_files(folder)},
            "settings": without_secrets(read_settings(location)),
            "home": str(location.home),
            "format": 3,  # of what describe() returns: a new one is described, and applied, again
            "feast": importlib.metadata.version("feast"),
        }
    )


@contextmanager
def _importable(repo_path: Path, home: Path) -> Iterator[None]:
    """Give Feast what it takes for granted when it imports definitions, and put everything back.

    It resolves modules against the working folder; and a module imported before an edit, or one of the same
    name from elsewhere, must not stand in for the file that is there now.
    """
    names = _modules(repo_path)
    hidden = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    folder, path, bytecode = Path.cwd(), list(sys.path), sys.dont_write_bytecode
    variable = os.environ.get("MLOPS_HOME")
    os.environ["MLOPS_HOME"] = str(home)
    sys.path.insert(0, str(repo_path))
    sys.dont_write_bytecode = True
    os.chdir(repo_path)
    importlib.invalidate_caches()
    linecache.checkcache()  # or Feast would keep the old source of an on-demand view's function
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
