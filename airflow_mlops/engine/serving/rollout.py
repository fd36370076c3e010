"""Rollouts: bring a version into service beside the one that serves, prove it, move the label, go back.

What a server should hold and where its label ``stable`` points is decided in the ledger, by compare-and-set;
then the server is made to match: its config file first, complete and by an atomic rename, so that a restart
finds it; then the reload call. When the server refuses, both are put back. Every step can be repeated: it ends
where it ended before.

A rollout takes two reloads, since a label may only point to a version that is already AVAILABLE.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from airflow_mlops.contracts import Deployment
from airflow_mlops.engine.ledger import Ledger, Pointer
from airflow_mlops.engine.locks import locked
from airflow_mlops.engine.serving.client import ServingClient, VersionState
from airflow_mlops.engine.serving.config import ModelConfig, ServerConfig
from airflow_mlops.engine.serving.golden import Golden, GoldenCheck
from airflow_mlops.exceptions import ConfigError, DataError, GateError, MlopsError, TransientError

STABLE = "stable"
"""The label that callers use."""

_NOTICED_WITHIN = 15.0  # seconds; a server looks at its configuration and its folders about once a second

_FIRST_LOAD_WITHIN = 600.0  # seconds; the reload call waits for the models that a server did not have before

_log = logging.getLogger(__name__)


def _no_check(_version: int) -> None:
    """Refuse no version."""


@dataclass(frozen=True)
class Rollout:
    """One model on one server.

    :param server: Name of the server in the ledger: the id of its Airflow connection.
    :param model: Name of the model on the server.
    :param base: The model's folder in the model store.
    :param config_file: The server's ``--model_config_file``, which lists all its models.
    :param client: Talks to the server.
    :param ledger: Holds the desired state.
    """

    server: str
    model: str
    base: Path
    config_file: Path
    client: ServingClient
    ledger: Ledger

    def deployment(self) -> Deployment:
        """Return the desired state; an empty one when the model was never deployed on this server."""
        return self._desired()[0]

    def load(self, version: int) -> Deployment:
        """Have the server load a version beside those in service. It goes on after this returns.

        :raises GateError: when the server could not load the first version of a model.
        :raises MlopsError: when the server refuses or does not answer. Nothing has changed then.
        """
        before = version_state(self.client, self.model, version)

        def decide(current: Deployment) -> Deployment:
            return current if version in current.loaded else _with_candidate(current, version)

        try:
            deployment = self._change("load", f"version {version}", decide)
        except ConfigError as error:
            # For a model it did not have before, the server answers only when the load has ended.
            state = version_state(self.client, self.model, version)
            if state is not None and state.state == "END" and state != before:
                raise self._unfit(version, describe(state)) from error
            raise
        if before is not None and before.state == "END":
            self._wait_until_noticed(version, before)
        return deployment

    def reject(self, version: int, why: str) -> GateError:
        """Unload a version that failed, unless callers depend on it, and return the error to raise."""

        def decide(current: Deployment) -> Deployment:
            if version in (current.stable, current.previous):
                return current
            return _with_candidate(current, None)

        self._change("reject", f"version {version}: {why}", decide)
        return self._unfit(version, why)

    def verify(self, version: int, *, tolerance: float = 1e-5) -> GoldenCheck:
        """Ask the server's ``/versions/N`` the golden questions. That it is AVAILABLE proves nothing.

        :param tolerance: Largest absolute difference to the golden predictions.
        :raises GateError: when it fails or answers differently. It is unloaded then, see :meth:`reject`.
        """
        try:
            _, signature = self.client.metadata(self.model, version)
            return Golden.read(self.base / str(version)).check(
                lambda inputs: self.client.predict(self.model, inputs, version=version), signature, tolerance
            )
        except MlopsError as error:
            if error.retryable:
                raise
            raise self.reject(version, f"{error.headline} {error.detail}") from error

    def promote(self, version: int, check: Callable[[int], None] = _no_check) -> Deployment:
        """Point the label ``stable`` to a version; the one it pointed to stays loaded for a rollback.

        :param check: Called with the version when the label would move to it, to refuse that by an error.
        :raises GateError: when the version is not AVAILABLE, or the label does not follow.
        """

        def decide(current: Deployment) -> Deployment:
            if current.stable == version:
                return current
            check(version)
            self._check_available(version)
            return _serving(current, version, current.stable, f"promoted version {version}")

        return self._change("promote", f"version {version}", decide)

    def rollback(self, reason: str, check: Callable[[int], None] = _no_check) -> Deployment:
        """Let the previous version answer again; the one it replaces becomes the previous.

        A second rollback does not bring back what the first took out: only a deployment by number does.

        :param reason: Who asked, and why. The same reason again is the same request again, and only makes sure.
        :param check: Called with the version that would answer again, to refuse that by an error.
        :raises GateError: when there is no previous version, or it was itself rolled back.
        """

        def decide(current: Deployment) -> Deployment:
            if current.reason == reason:
                return current
            if current.previous is None:
                raise GateError(
                    f"There is no previous version of {self.model!r} to roll back to.",
                    detail=f"server {self.server!r}, stable: {current.stable or 'none'}",
                    hint="Deploy another version.",
                )
            if current.previous == current.rolled_back:
                raise GateError(
                    f"Version {current.previous} of {self.model!r} was itself rolled back; it stays out.",
                    detail=f"server {self.server!r}, stable: {current.stable}; {current.reason}",
                    hint=f"Deploy the version that should serve by its number, {current.previous} too if it is wanted.",
                )
            check(current.previous)
            return _serving(current, current.previous, current.stable, reason, rolled_back=current.stable)

        return self._change("rollback", reason, decide)

    # --- the desired state and the server ---------------------------------------------------------------

    @property
    def _pointer_name(self) -> str:
        return f"deployment:{self.server}:{self.model}"

    def _desired(self) -> tuple[Deployment, Pointer | None]:
        pointer = self.ledger.pointer(self._pointer_name)
        if pointer is None:
            return Deployment(server=self.server, model=self.model), None
        return Deployment.model_validate(pointer.value), pointer

    def _change(self, action: str, why: str, decide: Callable[[Deployment], Deployment]) -> Deployment:
        """Move the desired state, then the server; put both back if the server does not follow.

        The lock is for the config file, which other models share; the ledger guards against writers elsewhere.
        """
        with locked(self.config_file.with_name(f"{self.config_file.name}.lock")):
            before, pointer = self._desired()
            after = decide(before)
            self._move(pointer, before, after, action, why)
            try:
                self._apply(after)
                self._confirm(after)
            except MlopsError as error:
                _log.warning("Undoing %s of %r (%s): %s", action, self.model, why, error)
                _, pointer = self._desired()
                self._move(pointer, after, before, f"undo {action}", error.headline)
                with suppress(MlopsError):  # the first error is the one to tell, and the file is back anyway
                    self._apply(before)
                raise
        return after

    def _move(self, pointer: Pointer | None, before: Deployment, after: Deployment, action: str, why: str) -> None:
        if after == before:
            return
        value = after.model_dump(mode="json")
        if not self.ledger.swap(self._pointer_name, value, pointer):
            raise TransientError(
                f"The deployment of {self.model!r} was changed by somebody else at the same moment.",
                detail=f"server {self.server!r}, {action}: {why}",
                hint="Run the task again: it decides on the new state.",
            )
        self.ledger.record("deployment", self.model, {"action": action, "why": why, **value})

    def _apply(self, deployment: Deployment) -> None:
        """Write the server's complete configuration and have it reloaded."""
        present = ServerConfig.read(self.config_file)
        config = present.without_model(self.model)
        if deployment.loaded:
            labels = {} if deployment.stable is None else {STABLE: deployment.stable}
            entry = ModelConfig(self.model, str(self.base), versions=deployment.loaded, labels=labels)
            config = config.with_model(entry)
        try:
            config.write(self.config_file)
        except OSError as error:
            raise TransientError(
                "The model config file cannot be written.",
                detail=f"{self.config_file}: {error}",
                hint="Check the permissions and the space there.",
            ) from error
        is_new = present.model(self.model) is None
        self.client.reload(config, timeout=_FIRST_LOAD_WITHIN if is_new else None)

    def _confirm(self, deployment: Deployment) -> None:
        """Check that the label points where it should, by the server's own account."""
        if deployment.stable is None:
            return
        resolved, _ = self.client.metadata(self.model, label=STABLE)
        if resolved != deployment.stable:
            raise GateError(
                f"The label {STABLE!r} of {self.model!r} did not move.",
                detail=f"server {self.server!r} resolves it to version {resolved}, not {deployment.stable}",
                hint="Check that this connection's config file is the one that the server reads.",
            )

    def _check_available(self, version: int) -> None:
        state = version_state(self.client, self.model, version)
        if state is None or state.state != "AVAILABLE":
            raise GateError(
                f"Version {version} of {self.model!r} is not AVAILABLE, so it is not promoted.",
                detail=f"server {self.server!r} says: {describe(state)}",
                hint="Load it and wait for it first.",
            )

    def _unfit(self, version: int, why: str) -> GateError:
        stable = self.deployment().stable
        serving = "Nothing serves yet" if stable is None else f"Version {stable} keeps serving"
        return GateError(
            f"Version {version} of {self.model!r} is not fit to serve.",
            detail=f"server {self.server!r} says: {why}",
            hint=f"{serving}. Publish a repaired model under a new version.",
        )

    def _wait_until_noticed(self, version: int, stale: VersionState) -> None:
        """Wait until the server takes up again a version it had given up, so that nobody reads old news."""
        deadline = time.monotonic() + _NOTICED_WITHIN
        while version_state(self.client, self.model, version) == stale and time.monotonic() < deadline:
            time.sleep(0.1)


def version_state(client: ServingClient, model: str, version: int) -> VersionState | None:
    """Return where a version is in its life, or None when the server does not know it."""
    try:
        return client.status(model).get(version)
    except DataError as error:
        if isinstance(error.__cause__, grpc.RpcError) and error.__cause__.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise


def describe(state: VersionState | None) -> str:
    """Return a state in words, with the server's error if there is one."""
    if state is None:
        return "unknown version"
    return f"{state.state}: {state.error}" if state.error else state.state


def _with_candidate(current: Deployment, candidate: int | None) -> Deployment:
    """Hold the versions in service and one candidate."""
    return current.model_copy(update={"loaded": _versions(current.stable, current.previous, candidate)})


def _serving(
    current: Deployment, stable: int, previous: int | None, reason: str, rolled_back: int | None = None
) -> Deployment:
    """Hold the versions in service only; older ones and candidates retire."""
    update = {
        "stable": stable,
        "previous": previous,
        "loaded": _versions(stable, previous),
        "rolled_back": rolled_back,
        "reason": reason,
    }
    return current.model_copy(update=update)


def _versions(*versions: int | None) -> tuple[int, ...]:
    return tuple(sorted({version for version in versions if version is not None}))
