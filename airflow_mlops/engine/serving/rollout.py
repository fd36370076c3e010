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
from datetime import UTC, datetime
from pathlib import Path

import grpc

from airflow_mlops.contracts import Deployment, Pin
from airflow_mlops.engine.ledger import Ledger, Pointer
from airflow_mlops.engine.locks import locked
from airflow_mlops.engine.serving.asking import as_asked
from airflow_mlops.engine.serving.client import ServingClient, VersionState
from airflow_mlops.engine.serving.config import ModelConfig, ServerConfig
from airflow_mlops.engine.serving.deployments import (
    check_pin,
    check_said,
    deployment,
    lasting,
    make_pin,
    moves,
    pointer_name,
    record,
    require_deployed,
)
from airflow_mlops.engine.serving.golden import UNPROVEN, Golden, GoldenCheck
from airflow_mlops.engine.serving.transform import load_transform
from airflow_mlops.exceptions import ConfigError, DataError, GateError, MlopsError, TransientError

STABLE = "stable"
"""The label that callers use."""

TOLERANCE = 1e-5
"""Largest absolute difference of an answer to a golden prediction, where nobody said another."""

VERIFIED = "verified"
"""Kind of the facts that say with which other tolerance a version has proved itself."""

KEEP = 3
"""How many versions that served well can be gone back to, beside the one that serves."""

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

    def load(
        self, version: int, check: Callable[[int], None] = _no_check, *, overrides: tuple[str, ...] = ()
    ) -> Deployment:
        """Have the server load a version beside those in service. It goes on after this returns.

        Callers who name no label get the highest version that is loaded, so nothing is while another one is pinned.

        :param check: Called with the version when it would be loaded, to refuse that by an error.
        :param overrides: The guards that somebody passed by asking for it, in words; kept with the deployment.
        :raises PinnedError: when another version is pinned.
        :raises GateError: when the server could not load the first version of a model.
        :raises MlopsError: when the server refuses or does not answer. Nothing has changed then.
        """

        def decide(current: Deployment) -> Deployment:
            if version in current.loaded:
                return current
            check_pin(current, version)
            check(version)
            return _with_candidate(current, version)

        return self._load(version, decide, overrides)

    def _load(
        self, version: int, decide: Callable[[Deployment], Deployment], overrides: tuple[str, ...] = ()
    ) -> Deployment:
        before = version_state(self.client, self.model, version)

        try:
            state_now = self._change("load", f"version {version}", decide, overrides)
        except ConfigError as error:
            # For a model it did not have before, the server answers only when the load has ended.
            state = version_state(self.client, self.model, version)
            if state is not None and state.state == "END" and state != before:
                raise self._unfit(version, describe(state)) from error
            raise
        if before is not None and before.state == "END":
            self._wait_until_noticed(version, before)
        return state_now

    def retire(self, version: int, why: str) -> None:
        """Unload a version that is not to serve now, unless it does or can be gone back to."""

        def decide(current: Deployment) -> Deployment:
            kept = version in (current.stable, current.previous, *current.good[:1])
            return current if kept else _with_candidate(current, None)

        self._change("retire", f"version {version}: {why}", decide)

    def reject(self, version: int, why: str) -> GateError:
        """Unload a version that failed, unless callers depend on it, and return the error to raise."""

        def decide(current: Deployment) -> Deployment:
            if version in (current.stable, current.previous, *current.good[:1]):
                return current
            return _with_candidate(current, None)

        self._change("reject", f"version {version}: {why}", decide)
        return self._unfit(version, why)

    def verify(self, version: int, *, tolerance: float = TOLERANCE) -> GoldenCheck:
        """Ask the server's ``/versions/N`` the golden questions. That it is AVAILABLE proves nothing.

        :param tolerance: Largest absolute difference to the golden predictions.
        :raises GateError: when it fails or answers differently. It is unloaded then, see :meth:`reject`.
        """
        try:
            golden = Golden.find(self.base / str(version))
            if golden is None:
                _log.warning(
                    "Version %d of %r has no golden predictions: all it proves is that it loads.", version, self.model
                )
                self._check_available(version)
                return UNPROVEN
            _, signature = self.client.metadata(self.model, version)
            signature, answer = as_asked(
                load_transform(self.base / str(version)),
                signature,
                lambda inputs: self.client.predict(self.model, inputs, version=version),
            )
            passed = golden.check(answer, signature, tolerance)
        except MlopsError as error:
            if error.retryable:
                raise
            raise self.reject(version, f"{error.headline} {error.detail}") from error
        if tolerance != self._tolerance(version):
            self.ledger.record(VERIFIED, self.model, {"server": self.server, "tolerance": tolerance}, key=str(version))
        return passed

    def _tolerance(self, version: int) -> float:
        """Return how closely a version was held to its golden predictions when it proved itself here last."""
        facts = self.ledger.facts(VERIFIED, self.model, key=str(version), limit=None)
        return next((fact.payload["tolerance"] for fact in facts if fact.payload["server"] == self.server), TOLERANCE)

    def promote(
        self,
        version: int,
        check: Callable[[int], None] = _no_check,
        *,
        keep: int = KEEP,
        overrides: tuple[str, ...] = (),
    ) -> Deployment:
        """Point the label ``stable`` to a version; the one it pointed to stays loaded for a rollback.

        :param check: Called with the version when the label would move to it, to refuse that by an error.
        :param keep: How many other versions that served well can be gone back to.
        :param overrides: The guards that somebody passed by asking for it, in words; kept with the deployment.
        :raises GateError: when another version is pinned, this one is not AVAILABLE, or the label does not follow.
        """

        def decide(current: Deployment) -> Deployment:
            if current.stable == version:
                return current
            check_pin(current, version)
            if version in current.rolled_back and version not in current.asked:
                raise GateError(
                    f"Version {version} of {self.model!r} was rolled back on {self.server!r}.",
                    detail=f"rolled back: {', '.join(map(str, current.rolled_back))}",
                    hint=f"It stays out until somebody asks for it: trigger {self.model}.deploy with its number; in a "
                    f"DAG of your own, `airflow-mlops rollback {self.model} --to {version}` brings it back.",
                )
            check(version)
            self._check_available(version)
            return _promoted(current, version, keep)

        return self._change("promote", f"version {version}", decide, overrides)

    def rollback(  # noqa: PLR0917
        self,
        who: str,
        reason: str,
        to: int | None = None,
        until: datetime | None = None,
        check: Callable[[int], None] = _no_check,
        request: str = "",
    ) -> Deployment:
        """Let an earlier version answer again, and pin it: nothing replaces it until the pin is lifted or runs out.

        The version it replaces stays out until somebody deploys it by number. The other is loaded first if it is not,
        and proves itself by its golden predictions.

        :param to: The version to go back to, any that is kept; default is the last one that served well.
        :param until: When the pin runs out; None: when it is lifted.
        :param check: Called with the version that would answer again, to refuse that by an error.
        :param request: Who asks, such as a run: the same one again is the same rollback, and only makes sure.
        :raises ConfigError: without a name and a reason, or when ``until`` is over.
            The same reason again is the same rollback too, while nothing else happened.
        :raises GateError: when there is nothing to go back to, it never served, or it does not answer as it did.
        """
        current = self.deployment()
        asked = f"{request}: {reason}" if request else reason
        if request and (current.reason == asked or self._was_done(asked)):
            return self._change("rollback", asked, lambda state: state)
        if current.stable is not None and self._is_repeated(current, asked, to):
            kept = current.pin
            if kept is None or kept.until != until or not kept.holds(datetime.now(UTC)):
                kept = make_pin(current.stable, who, reason, until)
            return self._change("rollback", asked, lambda state: state.model_copy(update={"pin": kept}))
        target = self._target(current) if to is None else to
        pin = make_pin(target, who, reason, until)
        self._check_target(current, target)
        self._check_kept(target)
        check(target)
        self._bring_back(target)
        return self._change("rollback", f"{pin.who}: {asked}", lambda state: self._rolled_back(state, pin, asked))

    def withdraw(self, who: str, reason: str, request: str = "") -> Deployment:
        """Let no version answer: what serves is bad, and nothing that is kept is good. Callers are refused at once.

        All that the server has of the model is unloaded. What served stays out, as after a rollback; a pin on it is
        lifted. The next version that passes its gates is deployed; a rollback to one by its number brings it back.

        :param request: Who asks, such as a run: the same one again is the same withdrawal.
        :raises ConfigError: without a name and a reason.
        :raises DataError: when the model was never deployed on the server.
        """
        check_said(who, reason)
        require_deployed(self.ledger, self.server, self.model)
        asked = f"{request}: {reason}" if request else reason
        done = bool(request) and self._was_done(asked, "withdraw")

        def decide(current: Deployment) -> Deployment:
            if current.stable is None or done:
                return current
            out = tuple(sorted({*current.rolled_back, current.stable}))
            emptied = {"stable": None, "previous": None, "loaded": (), "asked": (), "pin": None}
            return current.model_copy(update={**emptied, "rolled_back": out, "reason": asked})

        return self._change("withdraw", f"{who.strip()}: {asked}", decide)

    def _was_done(self, asked: str, action: str = "rollback") -> bool:
        """Return whether a run has done it once: its task may be cleared long after, when others have gone on."""
        done = lasting(moves(self.ledger, self.server, self.model))
        return any(move.action == action and move.state.reason == asked for move in done)

    def _is_repeated(self, current: Deployment, asked: str, to: int | None) -> bool:
        """Return whether the same was asked for last: then it is only made sure and pinned, not done once more."""
        last = moves(self.ledger, self.server, self.model)[:1]
        same = current.reason == asked and bool(last) and last[0].action == "rollback"
        return same and to in {None, current.stable}

    def _check_target(self, current: Deployment, target: int) -> None:
        """Refuse to go back to what serves, or to what never served: that would pass by the gates."""
        if target == current.stable:
            raise GateError(
                f"Version {target} of {self.model!r} serves already.",
                detail=f"server {self.server!r}",
                hint=f"To keep it, whatever passes its gates: `airflow-mlops pin {self.model}`.",
            )
        served = {move.state.stable for move in lasting(moves(self.ledger, self.server, self.model))}
        if target not in {*served, *current.good, current.previous}:
            known = ", ".join(str(number) for number in sorted(n for n in served if n is not None)) or "none"
            raise GateError(
                f"Version {target} of {self.model!r} never served on {self.server!r}.",
                detail=f"versions that did: {known}",
                hint=f"Go back to one of these; or deploy it by its number, through its gates: {self.model}.deploy.",
            )

    def _target(self, current: Deployment) -> int:
        """Return the last version that served well."""
        if not current.good:
            out = f"; rolled back: {', '.join(map(str, current.rolled_back))}" if current.rolled_back else ""
            raise GateError(
                f"There is no earlier version of {self.model!r} to roll back to.",
                detail=f"server {self.server!r}, stable: {current.stable or 'none'}{out}",
                hint="Name one that is kept: rollback to its number. Or deploy another version. Where none is good: "
                f"`airflow-mlops withdraw {self.model}`, or action withdraw of {self.model}.runbook.",
            )
        return current.good[0]

    def _check_kept(self, version: int) -> None:
        """Refuse a version whose files are gone."""
        if not (self.base / str(version)).is_dir():
            kept = sorted(int(folder.name) for folder in self.base.glob("*") if folder.name.isdecimal())
            raise GateError(
                f"Version {version} of {self.model!r} is not kept any more.",
                detail=f"{self.base} has {', '.join(map(str, kept)) or 'no version'}",
                hint="Go back to one of these, or deploy the version by its number: that fetches it again.",
            )

    def _bring_back(self, version: int) -> None:
        """Have a version loaded, and let it prove itself."""
        self._load(version, lambda state: state if version in state.loaded else _with_candidate(state, version))
        deadline = time.monotonic() + _FIRST_LOAD_WITHIN
        while (state := version_state(self.client, self.model, version)) is None or state.state != "AVAILABLE":
            if state is not None and state.state == "END":
                raise self.reject(version, describe(state))
            if time.monotonic() > deadline:
                raise TransientError(
                    f"Version {version} of {self.model!r} is still not loaded.",
                    detail=f"server {self.server!r} says: {describe(state)}",
                    hint="Try again: it goes on where it is.",
                )
            time.sleep(0.1)
        self.verify(version, tolerance=self._tolerance(version))

    def _rolled_back(self, current: Deployment, pin: Pin, asked: str) -> Deployment:
        self._check_available(pin.version)
        if current.stable == pin.version:
            return current.model_copy(update={"pin": pin})
        # What came after the one that is gone back to is out too: nobody wants to land there by the next rollback.
        jumped = tuple(number for number in current.good if number > pin.version)
        taken_out = jumped if current.stable is None else (current.stable, *jumped)
        good = tuple(number for number in current.good if number != pin.version and number not in jumped)
        return current.model_copy(
            update={
                "stable": pin.version,
                "previous": current.stable,
                "good": good,
                "loaded": _versions(pin.version, current.stable, *good[:1]),
                "rolled_back": tuple(sorted({*current.rolled_back, *taken_out} - {pin.version})),
                "asked": (),
                "pin": pin,
                "reason": asked,
            }
        )

    # --- the desired state and the server ---------------------------------------------------------------

    def _desired(self) -> tuple[Deployment, Pointer | None]:
        return deployment(self.ledger, self.server, self.model)

    def _change(
        self, action: str, why: str, decide: Callable[[Deployment], Deployment], overrides: tuple[str, ...] = ()
    ) -> Deployment:
        """Move the desired state, then the server; put both back if the server does not follow.

        The lock is for the config file, which other models share; the ledger guards against writers elsewhere.
        """
        with locked(self.config_file.with_name(f"{self.config_file.name}.lock")):
            before, pointer = self._desired()
            after = decide(before)
            self._move(pointer, before, after, action, why, overrides)
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

    def _move(  # noqa: PLR0917
        self,
        pointer: Pointer | None,
        before: Deployment,
        after: Deployment,
        action: str,
        why: str,
        overrides: tuple[str, ...] = (),
    ) -> None:
        if after == before:
            return
        name = pointer_name(self.server, self.model)
        if not self.ledger.swap(name, after.model_dump(mode="json"), pointer):
            raise TransientError(
                f"The deployment of {self.model!r} was changed by somebody else at the same moment.",
                detail=f"server {self.server!r}, {action}: {why}",
                hint="Run the task again: it decides on the new state.",
            )
        record(self.ledger, after, action, why, overrides)

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
        resolved, _ = self.client.signatures(self.model, label=STABLE)
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
    held = _versions(current.stable, current.previous, *current.good[:1], candidate)
    return current.model_copy(update={"loaded": held})


def _promoted(current: Deployment, version: int, keep: int) -> Deployment:
    """Hold the versions in service only; candidates retire. What served until now, and well, can be gone back to."""
    served = (current.stable, *current.good)
    good = tuple(number for number in served if number is not None and number not in (version, *current.rolled_back))[
        :keep
    ]
    return current.model_copy(
        update={
            "stable": version,
            "previous": current.stable,
            "good": good,
            "loaded": _versions(version, current.stable, *good[:1]),
            "rolled_back": tuple(number for number in current.rolled_back if number != version),
            "asked": tuple(number for number in current.asked if number != version),
            "reason": f"promoted version {version}",
        }
    )


def _versions(*versions: int | None) -> tuple[int, ...]:
    return tuple(sorted({version for version in versions if version is not None}))
