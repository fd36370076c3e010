"""Links to the model server."""

from __future__ import annotations

from airflow_mlops.links.base import XComLink


class TFServingModelLink(XComLink):
    """To the model's versions and their states, as the server's REST API says them."""

    name = "Model on the server"
    key = "tf_serving_model_link"
