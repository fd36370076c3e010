"""A notifier that writes to a file: what a person would be told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import BaseNotifier


class FileNotifier(BaseNotifier):
    """Append a line of JSON for each notice, with the text that a template made of it."""

    template_fields: Sequence[str] = ("text",)

    def __init__(self, path: str, text: str = "{{ notice.model }}: {{ notice.headline }} {{ notice.hint }}") -> None:
        super().__init__()
        self.path = path
        self.text = text

    def notify(self, context: Any) -> None:
        """Write."""
        with Path(self.path).open("a") as file:
            file.write(json.dumps({**context["notice"], "text": self.text}) + "\n")
