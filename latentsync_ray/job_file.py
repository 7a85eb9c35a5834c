"""A job as people write it down: YAML, and values on a command line."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from latentsync_ray.config import Budget, Cluster, Job, Recipe
from latentsync_ray.errors import ConfigError
from latentsync_ray.gate import Quality
from latentsync_ray.marking import Label, Require, Signing

__all__ = ["build_job", "load_job"]

_FORMER = {
    "retry_failed": "retry (=failed)",
    "sync_gpus": "generate_gpus",
    "sync_workers": "generate_workers",
    "sync_cpus": "generate_cpus",
}
"""Keys that had another name."""


_SECTIONS: dict[str, type[BaseModel]] = {
    "recipe": Recipe,
    "cluster": Cluster,
    "budget": Budget,
    "require": Require,
    "signing": Signing,
    "label": Label,
    "quality": Quality,
}
"""By the keys that they stand under."""
_QUOTED = "; text that begins with a brace or bracket needs quotes of its own within the shell's: '{}=\"{{...}}...\"'"
"""What to do about text that YAML takes for a mapping or list."""


def load_job(path: str | Path, *overrides: str) -> Job:
    """Read a job from YAML and apply ``dotted.key=value`` overrides (values are YAML).

    Raises ConfigError with the full path of each wrong key and the keys known there.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the job file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not a text in UTF-8, so it is no job file: {error.reason} at byte {error.start}"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {_without_text(error)}") from None  # which may hold a secret
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping with the keys {', '.join(Job.model_fields)}")
    return build_job(tree, *overrides, source=str(path))


def build_job(tree: dict[str, Any], *overrides: str, source: str) -> Job:
    """The job that a mapping describes, after ``dotted.key=value`` overrides.

    Raises ConfigError, which says of each wrong value whether it stands in ``source`` or in the overrides.
    """
    tree = copy.deepcopy(tree)
    for override in overrides:
        _override(tree, override)
    try:
        return Job.model_validate(tree)
    except ValidationError as error:
        given = tuple(override.partition("=")[0] for override in overrides)
        told: dict[str, list[str]] = {}
        for problem in error.errors():
            told.setdefault(_given_by(given, problem, source), []).append(_explain(problem))
        raise ConfigError("; ".join(f"{where}: {'; '.join(what)}" for where, what in told.items())) from error


def _override(tree: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if dotted.startswith("storage_options"):
        override = f"{dotted}{equals}..."
    if not equals or not dotted:
        raise ConfigError(f"override {override!r} is not of the form key=value, e.g. recipe.steps=10")
    *parents, leaf = dotted.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"override {override!r}: {parent} is a value, not a section")
    try:
        tree[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = f"override {override!r}: the value is not valid YAML: {_without_text(error)}"
        raise ConfigError(problem + (_QUOTED.format(dotted) if text[:1] in ("{", "[") else "")) from None


def _given_by(given: tuple[str, ...], problem: Any, source: str) -> str:
    """Who gave a wrong value: the overrides of these keys, ``source``, or, of values that do not go together, both."""
    steps = [str(step) for step in problem["loc"]]
    keys = [key.split(".") for key in given]
    if any(steps[: len(key)] == key for key in keys):
        return "overrides"
    return f"{source} and overrides" if any(key[: len(steps)] == steps for key in keys) else source


def _without_text(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the text around."""
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or type(error).__name__}{where}"


def _explain(problem: Any) -> str:
    # Of a union's alternatives pydantic names each, in brackets or with dashes: no key looks like that.
    where = ".".join(str(step) for step in problem["loc"] if not re.search(r"[\[-]", str(step)))
    if problem["type"] == "value_error" and not where:
        return str(problem["ctx"]["error"])
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["loc"][:1] == ("storage_options",):  # whatever came there may be a secret
        return f"{where}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"
    if problem["type"] != "extra_forbidden":
        quoted = _QUOTED.format(where) if problem["type"] == "string_type" and isinstance(problem["input"], dict | list) else ""
        return f"{where}: {problem['msg'][:1].lower()}{problem['msg'][1:]}, not {problem['input']!r}{quoted}"
    section: type[BaseModel] = Job
    for step in problem["loc"][:-1]:
        section = _SECTIONS.get(str(step), section)
    if former := _FORMER.get(str(problem["loc"][-1])):
        return f"unknown key {where}; it is called {former} now"
    return f"unknown key {where}; known here: {', '.join(section.model_fields)}"
