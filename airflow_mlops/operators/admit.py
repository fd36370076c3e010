"""The operator with which a training begins: for the request that it answers, and as a form asked for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.moments import parse_day, parse_moment
from airflow_mlops.operators.base import MlopsOperator, check_form, require, said
from airflow_mlops.operators.data import located
from airflow_mlops.operators.retraining import run_of, run_state, user_of

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.sdk import Context

    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.engine.retraining.requests import Reason, Request


class AdmittedTraining(TypedDict):
    """A training that goes on: which request it answers, why, and what it is made with."""

    model: str
    request: int
    why: str
    window: str
    exclude: list[dict[str, Any]]
    without_slices: dict[str, list[str]]
    data: str
    weight: str
    model_params: dict[str, Any]
    special: dict[str, Any]


class AdmitTrainingOperator(MlopsOperator):
    """Decide whether this run of a training goes on, and which request for a training it answers. Skipped, with the
    reason, when it may not.

    Use it first in a training DAG whose runs others ask for, as ``<model>.train`` does.

    A run by the schedule, by hand or by Airflow's backfill is a request itself; what comes of a backfill is only
    deployed by its number. Requests that wait and ask for the same are answered by it too. What a form asks to be other
    than usual is checked here, and goes on to the tasks that use it.

    :param model: Name of the model.
    :param request: Id of the request that the run is for; empty: it is one itself.
    :param as_of: Moment of which knowledge is used (ISO), as it was asked for; empty: the latest.
    :param cut: Moment of which knowledge is used (ISO), as the data allows it.
    :param cooldown: Least time after another training for a run of the schedule; empty: none.
    :param source_dataset: Dataset with a row an entity.
    :param matures_after: How long after its time the label of a row can still come.
    :param start: First day of the data (ISO).
    :param usual_window: How much history is trained on.
    :param validation: End of the window, before ``test``, that is not trained on.
    :param test: Very end of the window, likewise.
    :param split: ``time`` or ``entity``: whether these are spans of time, or shares of the entities.
    :param usual_params: Parameters of the trainer.
    :param usual_weight: Column of what a row counts; empty: all the same.
    :param window: How much history this training has; empty: as usual.
    :param exclude: Days that this training leaves out, ``2013-01-05, 2013-01-07/2013-01-09``.
    :param slices: Rows that it leaves out, ``carrier=AA, origin=JFK``.
    :param data: Parquet file, or folder of them, whose rows it is made of instead of the sealed ones.
    :param weight: Column of what a row counts in this training; empty: as usual.
    :param model_params: Parameters, as JSON, that replace those of the trainer.
    :param reason: Why, in words; something other than usual must have one.
    :param only_say: Whether only to say what it would read and take.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    stopped_by_halt = "surely"
    template_fields = (
        *MlopsOperator.template_fields,
        "model",
        "request",
        "as_of",
        "cut",
        "cooldown",
        "source_dataset",
        "matures_after",
        "start",
        "usual_window",
        "validation",
        "test",
        "split",
        "usual_params",
        "usual_weight",
        "window",
        "exclude",
        "slices",
        "data",
        "weight",
        "model_params",
        "reason",
        "only_say",
        "ledger_conn_id",
    )

    def __init__(
        self,
        *,
        model: str,
        cut: str,
        source_dataset: str,
        matures_after: str,
        start: str,
        usual_window: str,
        validation: str,
        test: str,
        split: str = "time",
        usual_params: Mapping[str, Any] | None = None,
        usual_weight: str = "",
        request: str = "",
        as_of: str = "",
        cooldown: str = "",
        window: str = "",
        exclude: str = "",
        slices: str = "",
        data: str = "",
        weight: str = "",
        model_params: str = "",
        reason: str = "",
        only_say: bool | str = False,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.cut = cut
        self.source_dataset = source_dataset
        self.matures_after = matures_after
        self.start = start
        self.usual_window = usual_window
        self.validation = validation
        self.test = test
        self.split = split
        self.usual_params = usual_params
        self.usual_weight = usual_weight
        self.request = request
        self.as_of = as_of
        self.cooldown = cooldown
        self.window = window
        self.exclude = exclude
        self.slices = slices
        self.data = data
        self.weight = weight
        self.model_params = model_params
        self.reason = reason
        self.only_say = only_say
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> AdmittedTraining:
        """Check what is asked for, price it if nothing else, and let the run answer its request."""
        from airflow_mlops.engine.retraining.decide import Policy
        from airflow_mlops.engine.retraining.emergency import check_parameters, parse_excluded, parse_slices
        from airflow_mlops.engine.retraining.looking import admit
        from airflow_mlops.engine.retraining.requests import settle

        check_form(self, context, self.model)
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        who, run = user_of(context), run_of(context)
        special = self._special()
        window = special.get("window", self.usual_window)
        params = check_parameters(self.usual_params or {}, special.get("model_params", {}))
        why = said(self.reason) or "no reason was given"
        exclude = parse_excluded(special.get("exclude", ""), self.source_dataset, who, why)
        slices = parse_slices(special.get("slices", ""))
        if exclude:
            self._check_excluded(ledger, window, exclude)
        if said(self.only_say) == "True":
            raise self._priced(context, ledger, window, exclude, special)
        if special and not said(self.reason):
            raise ConfigError(
                "A training that is other than usual has no reason.",
                detail=", ".join(special),
                hint="Say why in the field Why: it is kept in the ledger and in the model's manifest.",
            )
        request = self._request(context, ledger, special, who)
        settle(ledger, self.model, lambda other: "running" if other == run else run_state(context, other))
        cooldown = said(self.cooldown)
        made = admit(ledger, request, run, Policy(parse_duration(cooldown)) if cooldown else Policy())
        if made.start is None:
            held = f"This run trains nothing: {made.why}."
            context["ti"].xcom_push("held", held)
            raise AirflowSkipException(held)
        self.log.info("This training is for %s", made.why)
        return AdmittedTraining(
            model=self.model,
            request=request.id,
            why=made.why,
            window=window,
            exclude=[one.model_dump(mode="json") for one in exclude],
            without_slices=slices,
            data=special.get("data", ""),
            weight=special.get("weight", self.usual_weight),
            model_params=params,
            special=request.special,
        )

    def _special(self) -> dict[str, Any]:
        """Return what is other than usual, by the name of its field."""
        from airflow_mlops.engine.retraining.emergency import check_data, check_window

        names = ("window", "exclude", "slices", "data", "weight")
        given: dict[str, Any] = {name: said(getattr(self, name)) for name in names}
        if given["window"]:
            check_window(given["window"], self.validation, self.test)
        if given["data"]:
            check_data(given["data"], {**given, "as_of": said(self.as_of)})
        try:
            given["model_params"] = json.loads(said(self.model_params) or "{}")
        except ValueError:
            given["model_params"] = None
        if not isinstance(given["model_params"], dict):
            raise ConfigError(
                "The parameters of this training cannot be read.",
                detail=f"model_params={self.model_params!r}",
                hint='Write them as JSON, such as {"hidden": [64]}; or leave them empty.',
            )
        return {name: value for name, value in given.items() if value}

    def _request(self, context: Context, ledger: Ledger, special: Mapping[str, Any], who: str) -> Request:
        """Return the request that this run is for: the one it was triggered for, or itself."""
        from airflow_mlops.engine.retraining.registered import BACKFILL
        from airflow_mlops.engine.retraining.requests import ask, request_of

        number, run = said(self.request), context["dag_run"]
        if number.isdecimal() and (found := request_of(ledger, self.model, int(number))) is not None:
            return found
        as_of = said(self.as_of)
        if run.run_type == "scheduled":
            return ask(ledger, self.model, "cron", f"the schedule, due {as_of}", key=f"cron:{as_of}", who=self.dag_id)
        detail, key = said(self.reason) or f"run {run.run_id}", f"run:{run.run_id}"
        reason: Reason = "emergency" if special else "hand"
        if run.run_type == "backfill":
            reason, special = "backfill", {**special, BACKFILL: as_of}
            detail = f"Airflow's backfill, as of {as_of}{f': {said(self.reason)}' if said(self.reason) else ''}"
        return ask(ledger, self.model, reason, detail, key=key, who=who, as_of=as_of, special=special)

    def _priced(
        self, context: Context, ledger: Ledger, window: str, exclude: list[Any], special: Mapping[str, Any]
    ) -> AirflowSkipException:
        """Return what ends a run that was only to say what it would take."""
        if "data" in special:
            from airflow_mlops.engine.retraining.emergency import rows_of

            found = f"{rows_of(located(self, special['data'], 'data')):,} rows of {special['data']}"
        else:
            found = self._estimated(ledger, window, exclude)
        less = f", without the rows of {special['slices']}" if "slices" in special else ""
        words = f"Dry run: it would train on {found}{less}. Nothing was trained."
        context["ti"].xcom_push("held", words)
        return AirflowSkipException(words)

    def _end(self) -> datetime:
        """Return up to when rows have a label that has matured."""
        cut = parse_moment(require(said(self.cut), "cut", "Did wait_data succeed?"), "cut")
        return cut - parse_duration(self.matures_after)

    def _check_excluded(self, ledger: Ledger, window: str, exclude: list[Any]) -> None:
        from airflow_mlops.engine.retraining.emergency import begin_of, check_read

        end, start = self._end(), parse_day(self.start, "start")
        check_read(exclude, begin_of(self.partition_store(ledger), self.source_dataset, end, window, start), end)

    def _estimated(self, ledger: Ledger, window: str, exclude: list[Any]) -> str:
        from airflow_mlops.engine.retraining.emergency import estimate

        found = estimate(
            ledger,
            self.partition_store(ledger),
            model=self.model,
            source=self.source_dataset,
            end=self._end(),
            window=window,
            start=parse_day(self.start, "start"),
            without=exclude,
            held_out=parse_duration(self.validation) + parse_duration(self.test)
            if self.split == "time"
            else timedelta(0),
        )
        return str(found)
