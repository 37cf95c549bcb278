"""Redaction: values of options whose names say that they are secrets, and users in addresses, are written to no file.

Without it a password given on the command line is found in four files of the outputs.
"""

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "<redacted>"
_NAME = r"[\w.@/-]*(?:(?:passw(?:or)?d|passphrase|secret|credential|(?:api|access|private)_?key|jwt)[\w.-]*|token)"
SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
# In text such as key=value and {key: value}; a value ends where the next begins.
ASSIGNED = re.compile(rf"({_NAME}['\"]?\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s,}}\]]+)", re.IGNORECASE)
# One slash: an address that became a path.
USER_IN_ADDRESS = re.compile(r"(\w:/{1,2})[^/\s]+@")


def is_secret(name: str) -> bool:
    """True if a key's name says that its value is a secret: password, secret, credential, api_key, ..., or ends in token."""
    return SECRET_NAME.fullmatch(name) is not None


def redacted(value: Any) -> Any:
    """A plain value without the values of secret keys and without the user of addresses, at any depth; flags stay."""
    if isinstance(value, Mapping):
        return {key: _of_key(str(key), part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(part) for part in value]
    return _text(value) if isinstance(value, str) else value


def redacted_argument(argument: str) -> str:
    """The same of a command line's argument."""
    key, equals, _ = argument.partition("=")
    return f"{key}={REDACTED}" if equals and is_secret(key.lstrip("+~")) else _text(argument)


def _of_key(key: str, value: Any) -> Any:
    return REDACTED if is_secret(key) and value is not None and not isinstance(value, bool) else redacted(value)


def _text(text: str) -> str:
    return USER_IN_ADDRESS.sub(rf"\1{REDACTED}@", ASSIGNED.sub(rf"\1{REDACTED}", text))
