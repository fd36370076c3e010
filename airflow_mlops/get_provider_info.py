"""What Airflow is told about this provider: connection types and forms, links, configuration."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata; called by Airflow through the ``apache_airflow_provider`` entry point."""
    return {
        "package-name": "airflow-mlops",
        "name": "MLOps",
        "description": "Great Expectations, Feast, TensorFlow, MLflow and TensorFlow Serving in guarded DAGs.",
        "connection-types": [_MLFLOW, _FEAST, _TF_SERVING, _LEDGER],
        "extra-links": [
            "airflow_mlops.links.gx.GXValidationReportLink",
            "airflow_mlops.links.mlflow.MLflowModelVersionLink",
            "airflow_mlops.links.mlflow.MLflowRunLink",
            "airflow_mlops.links.tf_serving.TFServingModelLink",
        ],
        "task-decorators": [
            {"class-name": "airflow_mlops.decorators.tensorflow.tensorflow_task", "name": "tensorflow"}
        ],
        "config": {
            "mlops": {
                "description": "Settings of the airflow-mlops provider.",
                "options": {
                    "home": {
                        "description": "Where sealed partitions, features, snapshots, trainings and reports are kept: "
                        "a folder that all workers see, or object storage such as s3://aws_default@bucket/prefix, "
                        "opened by the connection before the @.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "/srv/mlops",
                        "default": "",
                    },
                    "cache": {
                        "description": "Folder of each machine in which it keeps what it used of a `home` on object "
                        "storage; each home has its own folder in it. The same path on all machines. Default is "
                        "airflow-mlops/homes in the user's cache folder.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "/var/cache/mlops",
                        "default": "",
                    },
                    "partitions": {
                        "description": "Where sealed partitions are kept, if not in `home`: a folder, or object "
                        "storage such as s3://aws_default@bucket/prefix, opened by the connection before the @.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "s3://aws_default@lake/partitions",
                        "default": "",
                    },
                    "train_image": {
                        "description": "Image in which a launcher such as Kubernetes trains, unless it names another: "
                        "that of target `train` of docker/Dockerfile, or one made from it.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "registry.example.com/mlops/train:1.0",
                        "default": "",
                    },
                    **{
                        name: {
                            "description": f"{what}, unless it names another.",
                            "version_added": "0.1.0",
                            "type": "string",
                            "example": example,
                            "default": "",
                        }
                        for name, what, example in (
                            ("sagemaker_role", "Role that a job of SageMaker has", "arn:aws:iam::111:role/train"),
                            ("sagemaker_instance_type", "Machine on which SageMaker trains", "ml.m5.xlarge"),
                            ("batch_job_queue", "Queue into which AWS Batch puts a training", "trainings"),
                            ("batch_job_definition", "Job definition by which AWS Batch trains", "train"),
                        )
                    },
                    "price_per_hour": {
                        "description": "What an hour of this worker costs, in any currency: the MLflow run of a "
                        "training then has its cost.",
                        "version_added": "0.1.0",
                        "type": "float",
                        "example": "2.5",
                        "default": "0",
                    },
                    "feast_pool": {
                        "description": "Airflow pool of the task that applies a Feast repository. Give it one slot, "
                        "so that applies wait for each other in the scheduler, not in a worker.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "feast",
                        "default": "default_pool",
                    },
                    "backfill_pool": {
                        "description": "Airflow pool of the tasks that execute backfills: as many at once as it has "
                        "slots, whatever the models.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "backfill",
                        "default": "default_pool",
                    },
                    "backfill_tasks": {
                        "description": "How many tasks of one backfill work at once, as far as its pool has slots.",
                        "version_added": "0.1.0",
                        "type": "integer",
                        "example": "4",
                        "default": "2",
                    },
                    "backfill_approve_above": {
                        "description": "A backfill that works on more partitions than this must be approved by a "
                        "person. So must one that replaces what a version saw that is in use.",
                        "version_added": "0.1.0",
                        "type": "integer",
                        "example": "100",
                        "default": "31",
                    },
                },
            },
        },
    }


def _field(label: str, description: str, *, secret: bool = False, kind: str = "string") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": [kind, "null"]}
    if secret:
        schema["format"] = "password"
    return {"label": label, "description": description, "schema": schema}


_MLFLOW = {
    "connection-type": "mlflow",
    "hook-class-name": "airflow_mlops.hooks.mlflow.MLflowHook",
    "hook-name": "MLflow",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "port"],
        "relabeling": {"host": "Tracking URI"},
        "placeholders": {"host": "http://mlflow.example.com:5000"},
    },
    "conn-fields": {
        "registry_uri": _field("Registry URI", "Model registry, when it is not behind the tracking URI."),
        "token": _field("Token", "Bearer token, instead of login and password.", secret=True),
    },
}

_FEAST = {
    "connection-type": "feast",
    "hook-class-name": "airflow_mlops.hooks.feast.FeastHook",
    "hook-name": "Feast",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "port", "login", "password"],
        "relabeling": {"host": "Feature repository"},
        "placeholders": {"host": "/opt/airflow/feature_repo"},
    },
    "conn-fields": {
        "project": _field("Project", "Feast project, when there is no repository here, or to replace the file's."),
        "registry": _field(
            "Registry", "SQLAlchemy URL or path of a registry file, in place of the repository's. No password here."
        ),
        "registry_conn_id": _field(
            "Registry connection", "Connection of type postgres, mysql or sqlite with the registry's database."
        ),
        "online_store": _field(
            "Online store", "JSON in place of, or completing, the section online_store. No password here."
        ),
        "online_conn_id": _field(
            "Online store connection", "Connection of type redis, aws (DynamoDB) or postgres with the online store."
        ),
        "offline_store": _field(
            "Offline store", "JSON in place of, or completing, the section offline_store. No password here."
        ),
        "offline_conn_id": _field(
            "Offline store connection", "Connection of type postgres with the tables of features."
        ),
    },
}

_TF_SERVING = {
    "connection-type": "tf_serving",
    "hook-class-name": "airflow_mlops.hooks.tf_serving.TFServingHook",
    "hook-name": "TensorFlow Serving",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "login", "password"],
        "relabeling": {"port": "REST port"},
        "placeholders": {"host": "tf-serving.example.com", "port": "8501"},
    },
    "conn-fields": {
        "grpc_port": _field("gRPC port", "Usually 8500.", kind="integer"),
        "model_base_path": _field("Model base path", "Folder that the server reads models from."),
        "model_config_file": _field("Model config file", "The server's --model_config_file."),
        "timeout": _field("Timeout", "Seconds a call may take.", kind="number"),
        "tensorflow_version": _field(
            "TensorFlow version", "The server's, such as 2.20: a real TensorFlow Serving does not say it by itself."
        ),
    },
}

_LEDGER = {
    "connection-type": "mlops_ledger",
    "hook-class-name": "airflow_mlops.hooks.ledger.LedgerHook",
    "hook-name": "MLOps ledger",
    "ui-field-behaviour": {
        "hidden-fields": ["extra"],
        "relabeling": {"host": "Host or SQLAlchemy URL", "schema": "Database"},
        "placeholders": {"host": "postgres.example.com", "schema": "mlops_ledger"},
    },
}
