"""One video and one speech into one file: no dataset, no records."""

from __future__ import annotations

import re
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from latentsync_ray import storage
from latentsync_ray.arguments import one_of, path_text
from latentsync_ray.config import Recipe, Signing
from latentsync_ray.disk import scratch
from latentsync_ray.errors import ClipError, ConfigError
from latentsync_ray.local.model import LipSync, nobody, recipe_of
from latentsync_ray.preflight import check_recipe, resolved
from latentsync_ray.sinks.file import FileSink
from latentsync_ray.stages.failures import failed_record
from latentsync_ray.stages.mark import check_signing
from latentsync_ray.types import UNUSABLE_ID, ClipRecord, Device, Pair, Part

if TYPE_CHECKING:
    pass

__all__ = ["check_output", "lipsync"]

_ENDINGS = (".mp4", ".m4v")
"""Names of the container that is written."""


def lipsync(
    video: str | PathLike[str],
    audio: str | PathLike[str],
    output: str | PathLike[str],
    *,
    recipe: Recipe | None = None,
    device: Device = "auto",
    overwrite: bool = True,
    signing: Signing | None = None,
    on_part: Callable[[Part], None] | None = None,
    on_frames: Callable[[int], None] | None = None,
    on_phase: Callable[[str], None] | None = None,
) -> ClipRecord:
    """Lip-sync one video to one speech and write the MP4 at ``output`` (a path or URI). Ray is not needed.

    ``record.status`` says whether it worked; ``record.error_code`` and ``record.error`` say why not. ``on_part`` is called
    with each finished piece, for progress; ``on_frames`` with the number of new frames, window by window; ``on_phase`` with
    what is under way, in a few words. ``signing`` has the file signed with Content Credentials. An existing output is replaced
    once the new one is finished, unless ``overwrite`` is false. Raises ConfigError when ``output`` is a folder, one of the
    inputs, no name of an MP4, or exists and shall be kept.
    """
    video, audio, output = (path_text(value, name) for name, value in (("video", video), ("audio", audio), ("output", output)))
    recipe = resolved(recipe_of(recipe))
    one_of(device, Device, "device")
    check_output(video, audio, output, overwrite=overwrite)
    pair = Pair(clip_id=re.sub(UNUSABLE_ID, "_", Path(output).stem), video=video, audio=audio)
    phase = on_phase or nobody
    phase("fetching the inputs")
    try:
        for uri in (video, audio):
            storage.fetch(uri)  # before a model is looked for: that takes longer, or a download
    except ClipError as error:
        return failed_record(pair, recipe, error)
    phase("loading the model")
    storage.check_writable(output)
    check_recipe(recipe, note=phase)
    if signing:
        check_signing(signing)
    with scratch() as work:
        model = LipSync(str(work), recipe=recipe, device=device, sink=FileSink(output), signing=signing)
        return model(pair, on_part=on_part, on_frames=on_frames, on_phase=on_phase)


def check_output(video: str, audio: str, output: str, *, overwrite: bool) -> None:
    """Refuse an ``output`` that ``lipsync`` would not write. Raises ConfigError, or as ``exists``."""
    place = Path(output)
    if place.is_dir():
        raise ConfigError(f"{output} is a folder; name the file to write to")
    if place.exists() and any(Path(each).exists() and place.samefile(each) for each in (video, audio)):
        raise ConfigError(f"{output} is one of the inputs; name another file to write to")
    if not output.lower().endswith(_ENDINGS):
        raise ConfigError(f"{output} would hold an MP4: let its name end in {' or '.join(_ENDINGS)}")
    if not overwrite and storage.exists(output):
        raise ConfigError(f"{output} exists already: name another file, or allow replacing it (--force, overwrite=True)")
