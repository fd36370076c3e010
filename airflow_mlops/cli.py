"""The command line: ``airflow-mlops serve …``, ``stack …``, ``demo …``, and the commands for people on call."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence

from airflow_mlops.commands.ask import add_ask
from airflow_mlops.commands.backfill import add_backfill
from airflow_mlops.commands.data import add_data
from airflow_mlops.commands.demo import add_demo
from airflow_mlops.commands.deployments import add_deployments
from airflow_mlops.commands.doctor import add_doctor
from airflow_mlops.commands.experiment import add_experiment
from airflow_mlops.commands.features import add_features
from airflow_mlops.commands.golden import add_golden
from airflow_mlops.commands.halts import add_halts
from airflow_mlops.commands.history import add_history
from airflow_mlops.commands.new import add_new
from airflow_mlops.commands.pipeline import add_pipeline
from airflow_mlops.commands.rerun import add_rerun
from airflow_mlops.commands.sources import add_sources
from airflow_mlops.commands.stack import add_stack
from airflow_mlops.commands.why import add_why
from airflow_mlops.exceptions import MlopsError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0, or 1 with headline, detail and hint on standard error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.getLogger("feast").setLevel(logging.WARNING)
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    if not sys.warnoptions:  # what libraries say to those who develop with them
        warnings.simplefilter("ignore")
        logging.getLogger("py.warnings").setLevel(logging.ERROR)  # Airflow hands them to the log
    try:
        if arguments[:1] == ["serve"]:
            return _serve(arguments[1:])
        options = _parser().parse_args(arguments)
        options.run(options)
    except MlopsError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever reads has read enough, as `| head` does
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    return 0


def _serve(flags: Sequence[str]) -> int:
    """Hand all flags to the server: they are those of TensorFlow Serving, not ours."""
    from airflow_mlops.engine.serving.server.main import main as serve

    return int(serve(list(flags)) or 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="airflow-mlops", description="Guarded models on Apache Airflow.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser(
        "serve",
        help="run the embedded model server (flags of tensorflow_model_server; --help lists them)",
        add_help=False,
    )
    add_new(commands)
    add_demo(commands)
    add_stack(commands)
    add_sources(commands)
    add_data(commands)
    add_features(commands)
    add_history(commands)
    add_pipeline(commands)
    add_experiment(commands)
    add_backfill(commands)
    add_deployments(commands)
    add_halts(commands)
    add_why(commands)
    add_golden(commands)
    add_rerun(commands)
    add_ask(commands)
    add_doctor(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
