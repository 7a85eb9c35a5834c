"""From ``recipe.model`` to what has to be known of the model: cheap, and without torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from latentsync_ray import redact
from latentsync_ray.errors import ConfigError, ModelError
from latentsync_ray.models import Family, ModelInfo, ModelRow
from latentsync_ray.registry import FAMILIES, lookup

__all__ = ["describe_models", "find_model", "model_names"]


def find_model(name: str) -> ModelInfo:
    """The model of that name, in that folder or URI, or the one that is the ``"module:attribute"`` of that name.

    What was found at a URI is asked for once per process. Raises ConfigError when there is no such thing, ModelError for a
    folder that does not say what it is.
    """
    return _found_at(name) if "://" in name else _found(name)


@lru_cache(maxsize=8)
def _found_at(uri: str) -> ModelInfo:
    return _found(uri)


def _found(name: str) -> ModelInfo:
    if name in model_names() or _is_place(name):
        for family in _families():
            if info := family.find(name):
                return info
        hints = "; or ".join(family.hint for family in _families())
        raise ModelError(f"{redact.shown(name)} does not say what it is: {hints}")
    if re.fullmatch(r"\w+(\.\w+)*:\w+", name):
        info = lookup({}, name, "model")
        if lacks := [each for each in ("template", "window", "hear", "flops", "memory", "load") if not hasattr(info, each)]:
            raise ConfigError(f"model {name!r} is no ModelInfo (see latentsync_ray.models): it has no {', '.join(lacks)}")
        return info
    raise ConfigError(f"no model {name!r}: neither a folder nor one of {', '.join(model_names())}")


def model_names() -> list[str]:
    """The models that have a name, family by family."""
    return [name for family in _families() for name in family.names]


def describe_models() -> list[ModelRow]:
    """The models that have a name, and which of them are on this machine. Asks no network."""
    return [find_model(name).describe() for name in model_names()]


def _is_place(name: str) -> bool:
    return "://" in name or Path(name).is_dir()


def _families() -> Iterator[Family]:
    return (lookup(FAMILIES, name, "family of models") for name in FAMILIES)
