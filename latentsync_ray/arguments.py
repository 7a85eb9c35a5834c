"""What callers hand in: of the right kind, or told at once."""

from __future__ import annotations

import os
from typing import Any, TypeVar, get_args

import numpy as np

from latentsync_ray.errors import ConfigError

__all__ = ["given", "kind_of", "one_of", "path_text", "short"]

_T = TypeVar("_T")


def path_text(value: Any, what: str) -> str:
    """``value``, a ``str`` or ``os.PathLike``, as text; ``what`` names it in the ConfigError for anything else."""
    if isinstance(value, str | os.PathLike) and isinstance(text := os.fspath(value), str) and text.strip():
        return text
    raise ConfigError(f"{what} is {value!r}; it must be a path or URI")


def given(value: Any) -> Any:
    """None for what tables hold where nothing is: empty text, NaN and pandas' NA; other text without blanks around it.

    The text "nan" is a language (Min Nan), so it is not among these.
    """
    if isinstance(value, str):
        return value.strip() or None
    return None if type(value).__name__ == "NAType" or value != value else value


def kind_of(value: Any, kind: type[_T], what: str, remedy: str) -> _T:
    """``value``, which has to be a ``kind``; the ConfigError for anything else names it ``what`` and says ``remedy``."""
    if isinstance(value, kind):
        return value
    raise ConfigError(f"{what} is {short(value)[:80]}; it must be {remedy}")


def one_of(value: Any, choices: Any, what: str) -> None:
    """Raise ConfigError unless ``value`` is one of the ``choices`` of a Literal."""
    if value not in get_args(choices):
        raise ConfigError(f"{what} is {value!r}; it must be one of {', '.join(map(repr, get_args(choices)))}")


def short(value: Any) -> str:
    """As Python shows it, but of an array only dtype and shape."""
    return f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else repr(value)
