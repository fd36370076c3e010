"""The versions a server holds: it follows configuration and file system, and finds the version of a request."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from airflow_mlops.engine.serving.codes import Code
from airflow_mlops.engine.serving.config import ServerConfig
from airflow_mlops.engine.serving.protos import config_pb2
from airflow_mlops.engine.serving.saved_model import ModelClosedError, SavedModel
from airflow_mlops.engine.serving.server.errors import ServingError, from_mlops, invalid
from airflow_mlops.engine.serving.server.lifecycle import Action, LoadOptions, State, Version, load, next_action
from airflow_mlops.engine.serving.server.versions import find_versions
from airflow_mlops.exceptions import MlopsError

_log = logging.getLogger(__name__)
_WAIT_SECONDS = 0.2


class Request(NamedTuple):
    """Which version a client asks for: a number, a label, or the highest available."""

    model: str
    version: int | None = None
    label: str | None = None


class Servable(NamedTuple):
    """A version that is loaded, and stays so while it is held."""

    model: str
    version: int
    saved_model: SavedModel


class ModelManager:
    """Loads and unloads versions in the background; answers requests from what is available.

    Follows ``tensorflow_model_server`` where that hurts, too: a failed version is not tried again when its files
    are repaired, and a version that is asked for again before it was unloaded postpones the whole request.

    :param load_threads: Loads that run at once. 0: loads, retries included, and unloads queue up in one thread.
    :param unload_threads: Unloads that run at once; 0 as above.
    :param allow_labels_for_unavailable: Let a label that is not in use point to a version that is not loaded.
    """

    def __init__(
        self,
        options: LoadOptions,
        *,
        load_threads: int = 0,
        unload_threads: int = 0,
        allow_labels_for_unavailable: bool = False,
    ) -> None:
        self._options = options
        self._allow_labels_for_unavailable = allow_labels_for_unavailable
        # One thread for whatever has none of its own, as the manager's only thread does it in the real server.
        self._inline = ThreadPoolExecutor(1, "manager")
        self._loads = ThreadPoolExecutor(load_threads, "load") if load_threads else self._inline
        self._unloads = ThreadPoolExecutor(unload_threads, "unload") if unload_threads else self._inline
        self._reloading = threading.Lock()
        self._changed = threading.Condition()
        self._config: ServerConfig | None = None
        #: Versions under management, and the last that is known of every version there ever was.
        self._managed: dict[str, dict[int, Version]] = {}
        self._known: dict[str, dict[int, Version]] = {}
        self._postponed: dict[str, dict[int, Path]] = {}
        #: Read without the lock by every request: replaced, never changed.
        self._serving: Mapping[str, Mapping[int, SavedModel]] = {}
        self._labels: Mapping[str, Mapping[str, int]] = {}
        self._complaint = ""

    # --- requests -----------------------------------------------------------------------------------------

    @contextmanager
    def hold(self, request: Request) -> Iterator[Servable]:
        """Find the version of a request and keep it loaded for the length of the block.

        :raises ServingError: when there is none.
        """
        with ExitStack() as stack:
            while True:
                servable = self._find(request)
                try:
                    stack.enter_context(servable.saved_model.hold())
                except ModelClosedError:
                    continue  # unloaded since it was found: look again
                break
            yield servable

    def _find(self, request: Request) -> Servable:
        if not request.model:
            raise invalid("ModelSpec has no name specified.")
        number = request.version
        if request.label is not None:
            number = self._labels.get(request.model, {}).get(request.label)
            if number is None:
                raise invalid(f"Unrecognized servable version label: {request.label}")
        available = self._serving.get(request.model, {})
        if number is None and available:
            number = max(available)
        if number is None or number not in available:
            wanted = f"Latest({request.model})" if number is None else f"Specific({request.model}, {number})"
            raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")
        return Servable(request.model, number, available[number])

    def status(self, model: str, version: int | None = None) -> list[Version]:
        """Return what is known of a model's versions, newest first; ended ones are among them.

        :raises ServingError: when nothing is.
        """
        with self._changed:
            known = self._known.get(model, {})
            if version is None:
                if not known:
                    raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {model}")
                return [known[number] for number in sorted(known, reverse=True)]
            if version not in known:
                raise ServingError(Code.NOT_FOUND, f"Could not find version {version} of model {model}")
            return [known[version]]

    # --- configuration ------------------------------------------------------------------------------------

    def reload(self, proto: config_pb2.ModelServerConfig, waiting: Callable[[], bool] = lambda: True) -> None:
        """Replace the configuration, and wait for models with new names. An empty message changes nothing.

        :param waiting: Asked now and then whether to go on waiting.
        :raises ServingError: when the configuration, or a label in it, is refused; nothing has changed then. Also
            when a new model cannot be loaded; then the rest is in force.
        """
        with self._reloading:
            if proto.WhichOneof("config") is None:
                _log.info("Taking no action for empty config.")
                return
            if self._config is not None and proto.WhichOneof("config") != "model_config_list":
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    "Cannot transition to requested config. It is only legal to transition from one "
                    "ModelConfigList to another.",
                )
            try:
                config = ServerConfig.from_proto(proto)
            except MlopsError as error:
                raise from_mlops(error) from error
            with self._changed:
                self._labels = self._checked_labels(config)
                noun = "servable" if self._config is None else "model"
                before = {model.name for model in self._config.models} if self._config else set()
                self._config = config
                names = {model.name for model in config.models}
                for removed in before - names:
                    self._aspire(removed, {})
            _log.info("Configuration in force: %s", ", ".join(sorted(names)) or "no models")
            self.poll()
            self._await_models(names - before, noun, waiting)

    def _checked_labels(self, config: ServerConfig) -> dict[str, dict[str, int]]:
        for model in config.models:
            for label, number in model.labels.items():
                in_use = self._labels.get(model.name, {}).get(label)
                if self._allow_labels_for_unavailable and in_use in {None, number}:
                    continue
                if number not in self._serving.get(model.name, {}):
                    raise ServingError(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label to version {number} of model {model.name}, which is not "
                        "currently available for inference",
                    )
        return {model.name: dict(model.labels) for model in config.models}

    def _await_models(self, names: set[str], noun: str, waiting: Callable[[], bool]) -> None:
        """Wait until each model has a version available, or nothing left that could become so."""
        with self._changed:
            while waiting():
                pending = [name for name in names if not self._settled(name)]
                if not pending:
                    break
                self._changed.wait(_WAIT_SECONDS)
            failed = [
                version
                for name in sorted(names)
                if not self._serving.get(name)
                for version in self._known.get(name, {}).values()
            ]
        if failed:
            texts = "".join(f"{{{version} due to error: {version.error}}}, " for version in failed)
            raise ServingError(Code.UNKNOWN, f"{len(failed)} {noun}(s) did not become available: {{{texts}}}")

    def _settled(self, name: str) -> bool:
        managed = self._managed.get(name, {}).values()
        return bool(self._serving.get(name)) or (
            bool(managed) and all(version.state == State.END for version in managed)
        )

    # --- file system --------------------------------------------------------------------------------------

    def poll(self) -> None:
        """Look for versions that came or went, once.

        A base path that does not exist ends the look for all models, as it does in the real server.
        """
        with self._changed:
            config = self._config
            if config is None:
                return
            try:
                found = {model.name: find_versions(model) for model in config.models}
            except ServingError as error:
                self._complain(f"FileSystemStoragePathSource encountered a filesystem access error: {error.message}")
                return
            empty = [model for model in config.models if not found[model.name]]
            self._complain(
                "".join(
                    f"No versions of servable {model.name} found under base path {model.base_path}. " for model in empty
                )
            )
            for name, versions in found.items():
                self._aspire(name, versions)

    def _complain(self, text: str) -> None:
        """Log what is wrong when it changes, not at every poll."""
        if text and text != self._complaint:
            _log.warning("%s", text)
        self._complaint = text

    # --- lifecycle, all under the lock --------------------------------------------------------------------

    def _aspire(self, name: str, versions: dict[int, Path]) -> None:
        """Ask for exactly these versions of a model."""
        self._postponed[name] = versions
        self._advance(name)

    def _advance(self, name: str) -> None:
        """Do all that can be done now for one model."""
        managed = self._managed.setdefault(name, {})
        self._flush(managed)
        versions = self._postponed.get(name)
        if versions is not None and not any(number in managed and not managed[number].aspired for number in versions):
            del self._postponed[name]
            self._take_over(name, versions)
            self._flush(managed)
        while action := next_action(managed.values()):
            self._start(action)
        self._changed.notify_all()

    @staticmethod
    def _flush(managed: dict[int, Version]) -> None:
        """Let go of what is neither wanted nor loaded."""
        for number, version in list(managed.items()):
            if not version.aspired and version.state in {State.START, State.END}:
                version.state = State.END
                del managed[number]

    def _take_over(self, name: str, versions: dict[int, Path]) -> None:
        managed = self._managed[name]
        for number, version in managed.items():
            if number not in versions:
                version.aspired = False
                version.unwanted.set()
        for number, path in versions.items():
            if number not in managed:
                version = Version(name, number, path)
                managed[number] = version
                self._known.setdefault(name, {})[number] = version

    def _start(self, action: Action) -> None:
        version = action.version
        if action.kind == "load":
            version.state = State.LOADING
            self._loads.submit(self._load, version)
        else:
            version.state = State.UNLOADING
            self._publish(version, None)
            self._unloads.submit(self._unload, version)

    def _publish(self, version: Version, saved_model: SavedModel | None) -> None:
        """Let requests find a version, or find it no more."""
        available = {
            number: loaded
            for number, loaded in self._serving.get(version.model, {}).items()
            if number != version.number
        }
        if saved_model is not None:
            available[version.number] = saved_model
        self._serving = {**self._serving, version.model: available}

    # --- in the background --------------------------------------------------------------------------------

    def _load(self, version: Version) -> None:
        outcome = load(version, self._options)
        with self._changed:
            if isinstance(outcome, ServingError):
                version.error = outcome
                version.state = State.END
            else:
                version.loaded = outcome
                version.state = State.AVAILABLE
                self._publish(version, outcome)
                _log.info("Successfully loaded servable version %s", version)
            self._advance(version.model)

    def _unload(self, version: Version) -> None:
        try:
            if version.loaded is not None:
                version.loaded.close()
        except MlopsError as error:
            version.error = from_mlops(error)
            _log.error("Unloading servable: %s failed: %s", version, version.error)
        with self._changed:
            version.loaded = None
            version.state = State.END
            _log.info("Done unloading servable version %s", version)
            self._advance(version.model)

    def close(self) -> None:
        """Unload everything and end the threads; a load that runs is waited for, one that waits is dropped."""
        with self._changed:
            self._config = None
            for name in list(self._managed):
                self._aspire(name, {})
            self._changed.wait_for(lambda: not any(self._managed.values()))
        for pool in (self._loads, self._unloads, self._inline):
            pool.shutdown(wait=True)
