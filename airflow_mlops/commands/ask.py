# ruff: noqa: T201  a command talks on standard output
"""``airflow-mlops ask``: one prediction of what serves, from keys and request fields alone."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_mlops.commands.place import (
    open_home,
    open_ledger,
    open_location,
    place_options,
    repo_option,
    use_laptop_connections,
)
from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.moments import parse_moment

if TYPE_CHECKING:
    import numpy as np

    from airflow_mlops.contracts import Signature, TensorSpec
    from airflow_mlops.engine.features.online.reader import OnlineReader
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.engine.serving.client import ServingClient
    from airflow_mlops.engine.serving.transform import Transform


def add_ask(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    ask = commands.add_parser(
        "ask",
        parents=[place_options(), repo_option()],
        help="ask what serves for a prediction, from keys and request fields; without any: what it wants",
    )
    ask.add_argument("model", metavar="MODEL")
    ask.add_argument("values", nargs="*", metavar="NAME=VALUE", help="such as customer=c17 price=40; NAME= is missing")
    ask.add_argument(
        "--at", metavar="ISO", help="read features as they were at this moment (default: now, whatever their age)"
    )
    ask.add_argument(
        "--server",
        default="tf_serving_default",
        metavar="CONNECTION",
        help="Airflow connection of the model server (default: %(default)s)",
    )
    ask.set_defaults(run=_ask)


@dataclass(frozen=True)
class Asked:
    """A model that serves, as those see it who ask it with features.

    :param signature: With the features that its transform takes as the inputs, where it has one.
    :param url: REST address of its status; empty where it has none.
    """

    model: str
    version: int
    reader: OnlineReader
    signature: Signature
    url: str
    client: ServingClient
    transform: Transform | None
    inputs: Mapping[str, TensorSpec]

    @property
    def wanted(self) -> dict[str, str]:
        """The columns that a caller may send → their types: keys, request fields, and inputs that no feature gives."""
        types = {name: spec.dtype for name, spec in self.signature.inputs.items()}
        own = {name: types[name] for name in self.reader.own_inputs(self.signature)}
        return {**self.reader.keys, **self.reader.request, **own}

    def values(self, given: Sequence[str]) -> dict[str, Any]:
        """Return the values of ``NAME=VALUE``.

        :raises ConfigError: when a name is not asked for, or a value is of another type.
        """
        return _values(given, self.reader, self.signature)

    def request(self, values: Mapping[str, Any], as_of: datetime | None = None) -> dict[str, Any]:
        """Return a whole request for the values of a caller: features are read online."""
        return self.reader.inputs([values], self.signature, as_of=as_of)[0]

    def sent(self, request: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return what the model server is sent for a request."""
        import numpy as np

        from airflow_mlops.engine.serving.asking import inputs_of

        sent = {name: np.array([value]) for name, value in request.items()}
        return sent if self.transform is None else dict(inputs_of(self.transform, self.inputs, sent))

    def answer(self, sent: Mapping[str, np.ndarray]) -> list[str]:
        """Ask, and return each output in words."""
        answer = self.client.predict(self.model, sent, version=self.version)
        return [
            f"{name}: {values[0].decode() if isinstance(values[0], bytes) else values[0]}"
            f"  (version {self.version} of {self.model})"
            for name, values in answer.items()
        ]


@contextmanager
def asked(model: str, server: str, *, location: Location, ledger: Ledger) -> Iterator[Asked]:
    """Open what serves of a model, to be asked.

    :param server: Airflow connection of the model server.
    :raises DataError: when nothing of it serves there.
    :raises TransientError: when the server does not answer.
    """
    from airflow_mlops.engine.features.online.reader import OnlineReader
    from airflow_mlops.engine.serving.asking import signature_asked, transform_in
    from airflow_mlops.engine.serving.deployments import require_deployed
    from airflow_mlops.engine.serving.rollout import STABLE
    from airflow_mlops.hooks.tf_serving import TFServingHook

    require_deployed(ledger, server, model)
    hook = TFServingHook(server)
    with hook.get_conn() as client:
        version, wanted = client.metadata(model, label=STABLE)
        store = hook.versions_folder(model)
        transform = None if store is None else transform_in(store, version)
        yield Asked(
            model=model,
            version=version,
            reader=OnlineReader(location, _service(ledger, model, version)),
            signature=signature_asked(transform, wanted),
            url=hook.model_url(model),
            client=client,
            transform=transform,
            inputs=wanted.inputs,
        )


def _ask(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.serving.requests import curl

    home, ledger = open_home(options), open_ledger(options)
    os.environ.setdefault("MLOPS_HOME", str(home))
    use_laptop_connections(home)
    with asked(options.model, options.server, location=open_location(options), ledger=ledger) as model:
        if not options.values:
            _say_what_it_wants(model)
            return
        at = parse_moment(options.at, "--at") if options.at else None
        request = model.request(model.values(options.values), at)
        sent = model.sent(request)
        answer = model.answer(sent)
    print(json.dumps(request, indent=2, default=str))
    print()
    if model.url:
        print(curl(model.url, {name: values.tolist()[0] for name, values in sent.items()}))
        print()
    print("\n".join(answer))


def _service(ledger: Ledger, model: str, version: int) -> str:
    from airflow_mlops.engine.features.governance.consumers import read_by

    read = read_by(ledger, model, version)
    if read is None:
        raise ConfigError(
            f"Nothing was recorded of the features of version {version} of {model!r}.",
            detail="it was not registered with this ledger",
            hint="Send its inputs yourself: its signature is in the server's metadata.",
        )
    return read.service


def _values(given: Sequence[str], reader: OnlineReader, signature: Signature) -> dict[str, object]:
    from airflow_mlops.engine.serving.requests import parse_value

    types = {name: spec.dtype for name, spec in signature.inputs.items()} | reader.keys | reader.request
    values = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or name not in types:
            raise ConfigError(
                f"{one!r} gives no value that is asked for.{did_you_mean(name, types)}",
                hint=f"Write NAME=VALUE. Names: {', '.join(types)}.",
            )
        values[name] = parse_value(name, text, types[name])
    return values


def _say_what_it_wants(model: Asked) -> None:
    reader, inputs = model.reader, model.signature.inputs
    own = reader.own_inputs(model.signature)
    print(f"Version {model.version} of {model.model} reads feature service {reader.plan.name}.")
    print(f"keys:      {', '.join(f'{name} ({kind})' for name, kind in reader.keys.items()) or 'none'}")
    print(f"request:   {', '.join(f'{name} ({kind})' for name, kind in reader.request.items()) or 'none'}")
    print(f"as it is:  {', '.join(f'{name} ({inputs[name].dtype})' for name in own) or 'none'}")
    print(f"inputs:    {', '.join(f'{name} ({spec.dtype})' for name, spec in inputs.items())}")
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    example = [
        f"{name}={moment if reader.request.get(name, '').startswith('timestamp') else '…'}" for name in model.wanted
    ]
    print(f"\nairflow-mlops ask {shlex.quote(model.model)} {' '.join(example)}")
