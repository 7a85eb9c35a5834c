"""What a job says of its storage: arguments for fsspec's filesystems, by protocol, of which nobody prints the secret ones.

Knows which are secret and which protocols are one and the same; the filesystems themselves are ``storage``'s affair.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Secret, SecretStr

from latentsync_ray import redact

__all__ = ["StorageOptions", "guarded", "one_name", "revealed", "secrets"]

StorageOptions = Mapping[str, Mapping[str, Any]]
"""Protocol -> name of an argument -> its value."""

_SAME = {"gcs": "gs", "s3a": "s3", "https": "http"}
_SECRET = re.compile(r"key|secret|token|pass|pwd|auth|credential|sas|signature|cookie|header|connection_string", re.IGNORECASE)
"""Names of arguments, or of what is inside them, whose values are secret."""


def one_name(protocol: str) -> str:
    """The protocol under the name that stands for all its aliases."""
    return _SAME.get(protocol, protocol)


def guarded(options: StorageOptions) -> dict[str, dict[str, Any]]:
    """The same with secrets wrapped (``pydantic.SecretStr``), so that printing or dumping them shows none.

    Raises ValueError when a protocol is there under two names.
    """
    held: dict[str, dict[str, Any]] = {}
    for protocol, values in options.items():
        name = one_name(protocol)
        if name in held:
            raise ValueError(f"{name} and its other name are both there: put all options under one of them")
        held[name] = {each: _guarded(value, _SECRET.search(each) is not None) for each, value in values.items()}
    return held


def revealed(options: StorageOptions) -> dict[str, dict[str, Any]]:
    """The same with secrets as they are, fit for a filesystem."""
    return {protocol: _revealed(values) for protocol, values in options.items()}


def secrets(options: StorageOptions) -> Iterator[str]:
    """The options that are secret, as text."""
    for value in options.values():
        yield from _secrets(value)


def _guarded(value: Any, secret: bool) -> Any:
    if value is None or isinstance(value, bool | Secret | SecretStr):
        return value
    if isinstance(value, int | float):
        return Secret[Any](value) if secret else value  # a password may be nothing but digits
    if isinstance(value, str):
        return SecretStr(value) if secret or redact.shown(value) != value else value
    if isinstance(value, Mapping):
        return {name: _guarded(each, secret or _SECRET.search(str(name)) is not None) for name, each in value.items()}
    if type(value) in (list, tuple):
        return [_guarded(each, secret) for each in value]
    return Secret[Any](value)  # an object of some library, which may print what it holds


def _revealed(value: Any) -> Any:
    if isinstance(value, Secret | SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return {name: _revealed(each) for name, each in value.items()}
    return [_revealed(each) for each in value] if isinstance(value, list) else value


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, Secret | SecretStr):
        yield str(value.get_secret_value())
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _secrets(each)
    elif isinstance(value, list):
        for each in value:
            yield from _secrets(each)
