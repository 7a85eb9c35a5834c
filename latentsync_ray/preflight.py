"""Whatever can be known to be wrong before anything is started, in seconds: model, detector, inputs, output.

Errors are those the work itself would meet, only earlier and on the driver, where people look. What does not answer in time
counts as unknown, and is left to the work. Knows neither Ray nor stages.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec as find_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from latentsync_ray import storage
from latentsync_ray.config import Job
from latentsync_ray.errors import ConfigError, InputNotFound, LatentSyncError, StorageUnavailable
from latentsync_ray.model.hub import HUB, size
from latentsync_ray.model.remedies import published_bytes
from latentsync_ray.model.source import check_reachable, find_spec, locate
from latentsync_ray.model.specs import MODELS
from latentsync_ray.registry import DETECTORS, lookup

__all__ = [
    "check_detector",
    "check_inputs",
    "check_output",
    "check_output_file",
    "check_settings",
    "have_model",
    "have_weights",
]

_OUTPUT_SECONDS = 30.0
"""An object store that takes longer for its first small object is down; in the middle of a run it is waited for longer."""
_SAMPLE, _SAMPLE_SECONDS = 32, 10.0
_NAMED = 3
"""Missing inputs named in a message."""
_PACKAGES = {"insightface": ("insightface", "onnxruntime")}
"""Detector -> packages that the package does not bring by itself."""


def check_settings(job: Job) -> None:
    """Raise ConfigError or ModelError for a model that does not exist or that the nodes would look for elsewhere, or a detector
    that cannot be used."""
    name = job.recipe.model
    if _elsewhere(job) and name not in MODELS and "://" not in name and not Path(name).is_absolute():
        raise ConfigError(
            f"recipe.model is {name!r}, a folder relative to this one, and cluster.address is {job.cluster.address!r}: the "
            "nodes work in folders of their own. Give a URI, or the absolute path of a folder that every node mounts"
        )
    find_spec(name)
    check_detector(job.recipe.detector, here=not _elsewhere(job))


def check_detector(name: str, *, here: bool = True) -> None:
    """Raise ConfigError or ModelError when the detector cannot be used ``here``, or surely not on other machines."""
    detector = lookup(DETECTORS, name, "detector")
    if here:
        detector()  # what it downloads is downloaded now, where people see it
        return
    absent = [package for package in _PACKAGES.get(name, ()) if find_module(package) is None]
    if absent:
        raise ConfigError(f"the detector {name!r} needs {' and '.join(absent)}, here and on every node that decodes video")


def check_output(output: str) -> None:
    """Write a small object into ``{output}/_work`` and remove it. Raises ConfigError when that fails or takes long."""
    probe = storage.join(output, "_work", f"probe-{uuid.uuid4().hex[:8]}")

    def write() -> None:
        storage.write_bytes(probe, b"Written to see whether it can be; may be removed.\n")
        storage.delete([probe])

    answer = _answers([write], _OUTPUT_SECONDS)[0]
    if answer is None:
        raise ConfigError(f"{output} gave no answer in {_OUTPUT_SECONDS:.0f} s: check its name and the way to it")
    if isinstance(answer.error, StorageUnavailable | InputNotFound):
        raise ConfigError(f"the output cannot be written to: {answer.error}") from answer.error
    answer.value()


def check_output_file(uri: str) -> None:
    """Raise ConfigError when a file at ``uri`` cannot be written; existing files are left alone, and folders are not made."""
    if storage.is_remote(uri):
        folder, _, name = uri.rpartition("/")
        check_output(folder or uri[: -len(name)])
        return
    place = Path(uri.removeprefix("file://")).expanduser().absolute().parent
    place = next(folder for folder in (place, *place.parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write {uri}: {place} is {'not writable' if place.is_dir() else 'no folder'}")


def check_inputs(job: Job, table: pa.Table, codes: pa.ChunkedArray, *, note: Callable[[str], None]) -> None:
    """Look at inputs spread evenly over the manifest, and raise ConfigError when more are missing than can be an accident.

    ``table`` is ``read_manifest``'s; ``codes`` are not null for clips that earlier runs have finished, which count as present.
    The limit is half of what was looked at, or the job's failure budget if that is more. Fewer are told to ``note``.
    """
    rows = np.unique(np.linspace(0, len(table) - 1, _SAMPLE).round().astype(int)).tolist()
    inputs = {row: [table[name][row].as_py() for name in ("video", "audio")] for row in rows if not codes[row].is_valid}
    uris = sorted({uri for pair in inputs.values() for uri in pair if uri and not uri.startswith("data:")})
    there = dict(zip(uris, _answers([partial(storage.exists, uri) for uri in uris], _SAMPLE_SECONDS), strict=True))
    missing, looked_at = [], len(rows)
    for pair in inputs.values():
        answers = {uri: there[uri] for uri in pair if uri in there}
        absent = [uri for uri, answer in answers.items() if answer and answer.absent]
        missing += absent[:1]
        looked_at -= not absent and not all(answer and answer.known for answer in answers.values())
    if not missing:
        return
    named = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
    found = f"of {looked_at} clips looked at, spread over the manifest, {len(missing)} lack an input: {named}"
    if len(missing) > max(0.5, job.failure_budget) * looked_at:
        raise ConfigError(
            f"{found}. Relative paths are relative to the manifest's folder; if these are right, see to it that the files can "
            "be read from here, or raise failure_budget"
        )
    note(f"{found}; they will be recorded as {InputNotFound.code}")


def have_weights(job: Job, *, note: Callable[[str], None]) -> None:
    """Have the model's files on this machine, downloaded if need be, or know that the nodes of a cluster can find them.

    Raises WeightsNotFound or CheckpointMismatch.
    """
    if not _elsewhere(job):
        have_model(job.recipe.model, note=note)
        return
    spec = find_spec(job.recipe.model)
    if spec.source and not check_reachable(spec) and spec.source.startswith(HUB):
        known = published_bytes(spec.source) + published_bytes(spec.vae)
        note(f"nodes that do not have {spec.name} download it{f', {size(known)},' if known else ''} before their first clip")


def have_model(name: str, *, note: Callable[[str], None] | None = None, bar: bool = True) -> None:
    """Have a model's files on this machine. ``note`` is told of a download, unless a ``bar`` shows it on a terminal.

    Raises as ``find_spec`` and ``locate`` do.
    """
    spec = find_spec(name)
    if spec.source:
        locate(spec, say=note, bar=bar)


def _elsewhere(job: Job) -> bool:
    return job.cluster.runner == "ray" and job.cluster.address is not None


@dataclass(frozen=True)
class _Answer:
    result: Any = None
    error: LatentSyncError | None = None

    def value(self) -> Any:
        if self.error:
            raise self.error
        return self.result

    @property
    def absent(self) -> bool:
        """To the question whether a file exists: no, or it may not be read."""
        return isinstance(self.error, InputNotFound) or self.result is False

    @property
    def known(self) -> bool:
        return self.error is None or self.absent


def _answers(questions: Sequence[Callable[[], Any]], seconds: float) -> list[_Answer | None]:
    """What each gives or raises, all asked at once; None for those that take longer.

    Those are left behind: their threads must not hold the process up at its end, as those of a pool would.
    """
    answers: list[_Answer | None] = [None] * len(questions)

    def ask(number: int) -> None:
        try:
            answers[number] = _Answer(questions[number]())
        except LatentSyncError as error:
            answers[number] = _Answer(error=error)

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(len(questions))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(answers)
