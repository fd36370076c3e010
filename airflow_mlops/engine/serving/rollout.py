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

from airflow_mlops.contracts import Deployment
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.client import ServingClient, VersionState
from airflow_mlops.engine.serving.config import ModelConfig, ServerConfig
from airflow_mlops.engine.serving.golden import Golden, GoldenCheck
from airflow_mlops.engine.serving.lock import locked
from airflow_mlops.exceptions import GateError, MlopsError, TransientError

STABLE = "stable"
"""The label that callers use."""

_NOTICED_WITHIN = 15.0  # seconds; a server looks at its configuration and its folders about once a second

_log = logging.getLogger(__name__)


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
        pointer = self.ledger.pointer(self._name)
        if pointer is None:
            return Deployment(server=self.server, model=self.model)
        return Deployment.model_validate(pointer.value)

    def load(self, version: int) -> Deployment:
        """Have a version loaded beside those in service; return before it is, but not before it was begun.

        :raises MlopsError: when the server refuses or does not answer; nothing has changed then.
        """
        before = self._state(version)

        def decide(current: Deployment) -> Deployment:
            return _with_loaded(current, version, reason=f"load {version}")

        deployment = self._change("load", decide)
        if before is not None and before.state == "END":
            self._wait_until_noticed(version, before)
        return deployment

    def reject(self, version: int, why: str) -> GateError:
        """Take a version that failed out of service, unless callers depend on it; return the error to raise."""

        def decide(current: Deployment) -> Deployment:
            return _with_loaded(current, None, reason=f"reject {version}: {why}")

        with suppress(_InService):
            self._change("reject", lambda current: decide(_not_in_service(current, version)))
        serving = self.deployment().stable
        return GateError(
            f"Version {version} of {self.model!r} is not fit to serve.",
            detail=f"{why} (server {self.server!r})",
            hint=f"Version {serving} keeps serving. Publish a repaired model under a new version."
            if serving is not None
            else "Nothing serves yet. Publish a repaired model under a new version.",
        )

    def verify(self, version: int, *, tolerance: float = 1e-5) -> GoldenCheck:
        """Ask the server's ``/versions/N`` the golden questions. That it is AVAILABLE proves nothing.

        :raises GateError: when it fails or answers differently; it is taken out of service then.
        """
        golden = Golden.read(self.base / str(version))
        try:
            _, signature = self.client.metadata(self.model, version)
            return golden.check(
                lambda inputs: self.client.predict(self.model, inputs, version=version), signature, tolerance
            )
        except MlopsError as error:
            if error.retryable:
                raise
            raise self.reject(version, f"{error.headline} {error.detail}") from error

    def promote(self, version: int) -> Deployment:
        """Point the label ``stable`` to a version and keep the one before it loaded.

        :raises GateError: when the version is not AVAILABLE, or the label does not follow.
        """

        def decide(current: Deployment) -> Deployment:
            if current.stable == version:
                return current
            self._check_available(version)
            return _serving(current, stable=version, previous=current.stable, reason=f"promote {version}")

        return self._change("promote", decide)

    def rollback(self, reason: str) -> Deployment:
        """Let the previous version answer again; the one it replaces becomes the previous.

        :param reason: Who asked, and why. The same reason again is the same request again: it only makes sure.
        :raises GateError: when there is no previous version.
        """

        def decide(current: Deployment) -> Deployment:
            if current.reason == reason:
                return current
            if current.previous is None:
                raise GateError(
                    f"There is no previous version of {self.model!r} to roll back to.",
                    detail=f"server {self.server!r} serves version {current.stable}, its first",
                    hint="Deploy another version.",
                )
            return _serving(current, stable=current.previous, previous=current.stable, reason=reason)

        return self._change("rollback", decide)

    @property
    def _name(self) -> str:
        return f"deployment:{self.server}:{self.model}"

    def _change(self, action: str, decide: Callable[[Deployment], Deployment]) -> Deployment:
        """Move the desired state, then the server; put both back if the server does not follow.

        The lock is for the config file, which other models share. The ledger guards against writers elsewhere.
        """
        with locked(self.config_file.with_name(f"{self.config_file.name}.lock")):
            before = self.deployment()
            after = decide(before)
            self._move(action, before, after)
            try:
                self._apply(after)
                self._confirm(after)
            except MlopsError as error:
                _log.warning("%s of %r failed, putting %s back: %s", action, self.model, before, error.headline)
                self._move(f"undo {action}", after, before)
                with suppress(MlopsError):  # the first error is the one to tell; the file is back in any case
                    self._apply(before)
                raise
        return after

    def _move(self, action: str, before: Deployment, after: Deployment) -> None:
        if before == after:
            return
        pointer = self.ledger.pointer(self._name)
        found = Deployment(server=self.server, model=self.model)
        if pointer is not None:
            found = Deployment.model_validate(pointer.value)
        if found != before or not self.ledger.swap(self._name, after.model_dump(mode="json"), pointer):
            raise TransientError(
                f"The deployment of {self.model!r} was changed by somebody else at the same moment.",
                detail=f"server {self.server!r}, {action}",
                hint="Run the task again; it decides on the new state.",
            )
        self.ledger.record("deployment", self.model, {"action": action, **after.model_dump(mode="json")})

    def _apply(self, deployment: Deployment) -> None:
        """Write the server's complete configuration and have it reloaded."""
        config = ServerConfig.read(self.config_file).without_model(self.model)
        if deployment.loaded:
            labels = {} if deployment.stable is None else {STABLE: deployment.stable}
            entry = ModelConfig(self.model, str(self.base), versions=deployment.loaded, labels=labels)
            config = config.with_model(entry)
        config.write(self.config_file)
        self.client.reload(config)

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
        state = self._state(version)
        if state is None or state.state != "AVAILABLE":
            raise GateError(
                f"Version {version} of {self.model!r} is not AVAILABLE, so nothing is promoted.",
                detail=f"server {self.server!r} says {describe(state)}",
                hint="Load it and wait for it first.",
            )

    def _state(self, version: int) -> VersionState | None:
        return self.client.status(self.model).get(version)

    def _wait_until_noticed(self, version: int, stale: VersionState) -> None:
        """Wait until the server tries a version again that it had given up, so that nobody reads the old news."""
        deadline = time.monotonic() + _NOTICED_WITHIN
        while self._state(version) == stale and time.monotonic() < deadline:
            time.sleep(0.1)


def describe(state: VersionState | None) -> str:
    """Say a version's state in words, with the server's error if it has one."""
    if state is None:
        return "that it does not know it"
    return f"{state.state}: {state.error}" if state.error else state.state


class _InService(Exception):
    """The version that is to be rejected answers callers, or is what a rollback goes back to."""


def _not_in_service(current: Deployment, version: int) -> Deployment:
    if version in (current.stable, current.previous):
        raise _InService
    return current


def _with_loaded(current: Deployment, candidate: int | None, reason: str) -> Deployment:
    wanted = {current.stable, current.previous, candidate} - {None}
    return _loaded(current, wanted, reason)
