"""What a driver finds out before any work starts, in seconds: model, detector and a sample of the inputs.

Each check raises ConfigError or ModelError that says what to do. Knows no engine: what only the nodes of a cluster can tell is
asked by ``pipeline``.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from latentsync_ray import redact, storage
from latentsync_ray.config import Job, Recipe
from latentsync_ray.consent import consented
from latentsync_ray.errors import ConfigError, ModelError
from latentsync_ray.faces.find import check_detector, resolved_detector
from latentsync_ray.faces.mesh_files import INSTALL
from latentsync_ray.models.find import find_model
from latentsync_ray.models.fitting import windows_together
from latentsync_ray.registry import lookup

__all__ = ["check_inputs", "check_recipe", "check_room", "fetch_model", "resolved"]

_SAMPLE = 32
"""Rows of a manifest that are looked at."""
_LOOKERS = 16
"""Inputs looked at together."""
_SECONDS = 10.0
"""Longest look at the inputs: what has not answered by then says nothing."""
_MOSTLY = 0.5
"""A larger share of missing inputs is a mistake of the whole manifest, such as another folder."""


def resolved(recipe: Recipe, *, note: Callable[[str], None] | None = None) -> Recipe:
    """The recipe with its detector named; ``note`` hears when that is not ``mesh``, for want of its files.

    Settled once, before work starts: the name is part of the recipe's fingerprint and of records.
    """
    detector = resolved_detector(recipe.detector)
    if note and recipe.detector == "auto" and detector == "embedded":
        note(
            "faces are looked for with the embedded detector, which follows one mostly frontal face; the detector mesh follows "
            f"all at any angle: {INSTALL}"
        )
    if note and recipe.detector != detector == "mesh-v2":
        note(f"faces are looked for with mesh-v2, six times slower than mesh, whose files are not here: {INSTALL}")
    return recipe if detector == recipe.detector else recipe.model_copy(update={"detector": detector})


def check_recipe(recipe: Recipe, *, note: Callable[[str], None], fetch: bool = True) -> None:
    """Have the model's files on this machine and the detector ready to be made.

    ``fetch`` downloads weights that are not here, which ``note`` hears of; without it, other machines do the work, and it is
    enough that they can find the model. Raises ConfigError or ModelError.
    """
    check_detector(resolved(recipe).detector)
    if recipe.watermark:
        lookup({}, recipe.watermark, "watermark")
    if fetch:
        fetch_model(recipe.model, note=note)
    else:
        find_model(recipe.model).check_elsewhere(say=note)


def check_room(job: Job) -> None:
    """Raise ModelError when the model does not fit the memory that the job says its device has."""
    if memory := job.cluster.device_memory_gb:
        device = "cuda" if job.cluster.device == "auto" else job.cluster.device
        try:
            windows_together(find_model(job.recipe.model), job.recipe, device, memory * 1e9)
        except ModelError as error:
            raise ModelError(f"{error} (cluster.device_memory_gb is {memory:g})") from error


def fetch_model(name: str, *, note: Callable[[str], None]) -> None:
    """Have a model's files on this machine, from the hub if need be. Raises ConfigError, WeightsNotFound or ModelError."""
    find_model(name).fetch(say=note, bar=True)


def check_inputs(
    table: pa.Table,
    codes: Callable[[pa.ChunkedArray], pa.ChunkedArray],
    *,
    tolerated: float,
    local: bool = True,
    consent: bool = False,
    dropped: Sequence[int] | np.ndarray = (),
    note: Callable[[str], None],
) -> None:
    """Look whether the inputs of a sample of the manifest's rows are there.

    ``codes`` gives the error code of clips, empty text for one that is dubbed: those are not looked at, nor are the rows
    ``dropped``. ``local`` says that workers see the local paths that this machine sees; where ``consent`` is required, rows
    without it are not looked at either. Raises ConfigError when more than half of the inputs, and more than ``tolerated`` (a
    share), do not exist; tells ``note`` of fewer.
    """
    rows = np.unique(np.linspace(0, len(table) - 1, _SAMPLE).round().astype(int)).tolist()
    rows = [row for row, code in zip(rows, codes(table["clip_id"].take(rows)).to_pylist(), strict=True) if code != ""]
    rows = np.setdiff1d(rows, dropped).tolist()
    if consent:
        given = consented(table)
        rows = [row for row in rows if given[row]]
    uris = {table[name][row].as_py(): f"row {row + 1}" for row in rows for name in ("video", "audio")}
    uris = {uri: row for uri, row in uris.items() if uri and (local or storage.is_remote(uri))}
    found = _look(uris)
    missing = [uri for uri in uris if found.get(uri) is False]
    if not missing:
        return
    known = sum(each is not None for each in found.values())
    named = "; ".join(f"{uris[uri]}: {redact.shown(uri)}" for uri in missing[:3])
    told = f"{len(missing)} of {known} inputs that were looked at do{'es' * (len(missing) == 1)} not exist ({named})"
    if len(missing) > max(_MOSTLY, tolerated) * known:
        raise ConfigError(
            f"{told}; nothing was started. Relative paths are relative to the manifest's folder; to try all rows nevertheless, "
            "raise failure_budget"
        )
    note(f"{told}; their clips will fail as input_not_found")


def _look(uris: Iterable[str]) -> dict[str, bool | None]:
    """URI -> whether it exists, None where storage did not say; only those that answered in time."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    found: dict[str, bool | None] = {}
    for uri in uris:
        waiting.put(uri)

    def look() -> None:
        while True:
            try:
                uri = waiting.get_nowait()
            except queue.Empty:
                return
            found[uri] = storage.seen(uri)

    threads = [threading.Thread(target=look, daemon=True) for _ in range(_LOOKERS)]  # a hung one must not hold up the exit
    for thread in threads:
        thread.start()
    until = time.monotonic() + _SECONDS
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return dict(found)
