"""A model that a task of one's own has trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_mlops.operators.data import located
from airflow_mlops.operators.training_spec import Training, TrainingOperator, trained

if TYPE_CHECKING:
    from airflow.sdk import Context


class TensorFlowAdoptModelOperator(TrainingOperator):
    """Take the SavedModel that a task before has trained, as ``TensorFlowTrainOperator`` would have made it.

    Use it where a task of yours trains, and the model is to be judged and served like any other.

    The model must take inputs of the snapshot and answer; its golden predictions are recorded, and it is measured,
    registered and judged like any other. The DAG file, and what lies beside it, is the code that it came of. The same
    files are the same training, however often they are taken.

    :param saved_model: Folder of the SavedModel, here or on object storage such as ``s3://aws_default@bucket/model``.
    """

    takes_gpus: ClassVar[bool] = False
    template_fields = (*TrainingOperator.template_fields, "saved_model")

    def __init__(self, *, saved_model: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.saved_model = saved_model

    def perform(self, context: Context) -> Training:
        """Copy it, hold it against the snapshot, and return it as a finished training."""
        import tempfile

        from airflow_mlops.engine.data.files import tree_hash
        from airflow_mlops.engine.registry.elsewhere import brought
        from airflow_mlops.engine.training.environment import environment
        from airflow_mlops.engine.training.own import take

        self.script = self.script or Path(self.dag.fileloc).name
        with tempfile.TemporaryDirectory() as scratch:
            made = brought(located(self, self.saved_model, "saved_model"), Path(scratch) / "saved_model")
            spec = self.spec({**environment(), "saved_model": tree_hash(made)})
            self.mind_known(context, spec)
            workdir = self.home_path / "trainings" / spec.hash[:16]
            return trained(spec, workdir, take(spec, workdir, made))
