# ruff: noqa: T201  a command talks on standard output
"""``airflow-mlops ask``: one prediction of what serves, from keys and request fields alone."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING

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
    from airflow_mlops.contracts import Signature
    from airflow_mlops.engine.features.online.reader import OnlineReader
    from airflow_mlops.engine.ledger import Ledger


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


def _ask(options: argparse.Namespace) -> None:
    import numpy as np

    from airflow_mlops.engine.features.online.reader import OnlineReader
    from airflow_mlops.engine.serving.asking import inputs_of, signature_asked, transform_in
    from airflow_mlops.engine.serving.deployments import require_deployed
    from airflow_mlops.engine.serving.requests import curl
    from airflow_mlops.engine.serving.rollout import STABLE
    from airflow_mlops.hooks.tf_serving import TFServingHook

    home, ledger = open_home(options), open_ledger(options)
    os.environ.setdefault("MLOPS_HOME", str(home))
    use_laptop_connections(home)
    require_deployed(ledger, options.server, options.model)
    hook = TFServingHook(options.server)
    with hook.get_conn() as client:
        version, wanted = client.metadata(options.model, label=STABLE)
        store = hook.versions_folder(options.model)
        transform = None if store is None else transform_in(store, version)
        signature = signature_asked(transform, wanted)
        reader = OnlineReader(open_location(options), _service(ledger, options.model, version))
        if not options.values:
            _say_what_it_wants(options.model, version, reader, signature)
            return
        at = parse_moment(options.at, "--at") if options.at else None
        request = reader.inputs([_values(options.values, reader, signature)], signature, as_of=at)[0]
        sent = {name: np.array([value]) for name, value in request.items()}
        if transform is not None:
            sent = inputs_of(transform, wanted.inputs, sent)
        answer = client.predict(options.model, sent, version=version)
    print(json.dumps(request, indent=2, default=str))
    print()
    if url := hook.model_url(options.model):
        print(curl(url, {name: values.tolist()[0] for name, values in sent.items()}))
        print()
    for name, values in answer.items():
        said = values[0].decode() if isinstance(values[0], bytes) else values[0]
        print(f"{name}: {said}  (version {version} of {options.model})")


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


def _values(given: list[str], reader: OnlineReader, signature: Signature) -> dict[str, object]:
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


def _say_what_it_wants(model: str, version: int, reader: OnlineReader, signature: Signature) -> None:
    own = reader.own_inputs(signature)
    print(f"Version {version} of {model} reads feature service {reader.plan.name}.")
    print(f"keys:      {', '.join(f'{name} ({kind})' for name, kind in reader.keys.items()) or 'none'}")
    print(f"request:   {', '.join(f'{name} ({kind})' for name, kind in reader.request.items()) or 'none'}")
    print(f"as it is:  {', '.join(f'{name} ({signature.inputs[name].dtype})' for name in own) or 'none'}")
    print(f"inputs:    {', '.join(f'{name} ({spec.dtype})' for name, spec in signature.inputs.items())}")
    wanted = [*{**reader.keys, **reader.request, **dict.fromkeys(own, "")}]
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    example = [f"{name}={moment if reader.request.get(name, '').startswith('timestamp') else '…'}" for name in wanted]
    print(f"\nairflow-mlops ask {shlex.quote(model)} {' '.join(example)}")
