"""Passwords out of what is shown, hashed and logged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
_NAMES = re.compile(r"passw(or)?d|passphrase|secret|token|credential|access_?key|api_?key|private_?key", re.IGNORECASE)
# The password of a URL, which may hold an @ that nobody escaped, and one in a list of parameters.
_IN_URL = re.compile(r"(?<=://)([^\s/:@,]*):\S+@")
_PARAMETER = re.compile(rf'\b(\w*(?:{_NAMES.pattern})\w*\s*=\s*)("(?:[^"\\]|\\.)*"|[^\s,;&]+)', re.IGNORECASE)


def masked(text: str) -> str:
    """Return a text without the passwords of its URLs and parameters.

    >>> masked("postgresql://feast:hunter2@db/feast and redis:6379,password=hunter2")
    'postgresql://feast:***@db/feast and redis:6379,password=***'
    """
    return _PARAMETER.sub(rf"\g<1>{MASK}", _IN_URL.sub(rf"\g<1>:{MASK}@", text))


def without_secrets(settings: Any) -> Any:
    """Return settings with every password, token and key replaced: to show them, or to tell one from another.

    >>> without_secrets({"type": "redis", "options": {"auth_token": "hunter2"}})
    {'type': 'redis', 'options': {'auth_token': '***'}}
    """
    if isinstance(settings, Mapping):
        return {
            key: MASK if value and _NAMES.search(str(key)) and isinstance(value, str) else without_secrets(value)
            for key, value in settings.items()
        }
    if isinstance(settings, list | tuple):
        return [without_secrets(value) for value in settings]
    return masked(settings) if isinstance(settings, str) else settings
