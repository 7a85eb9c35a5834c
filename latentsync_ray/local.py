"""The five stages in one process: for one clip, notebooks and services, and what the Ray runner is tested against."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from latentsync_ray.config import Job, Recipe
from latentsync_ray.errors import ClipError
from latentsync_ray.registry import SINKS, lookup
from latentsync_ray.sinks import Sink
from latentsync_ray.sinks.file import FileSink
from latentsync_ray.stages.crop import Crop
from latentsync_ray.stages.join import Join, failed_record
from latentsync_ray.stages.paste import Paste
from latentsync_ray.stages.plan import Plan
from latentsync_ray.stages.sync import Sync
from latentsync_ray.types import ClipRecord, Device, Pair, Part

__all__ = ["LipSync", "dub", "lipsync"]


class LipSync:
    """A warm model that dubs pair after pair.

    ``LipSync(output, recipe=recipe)(pair)`` writes ``{output}/clips/{clip_id}.mp4`` and returns the clip's record; an error
    in the clip's data is in the record, any other error is raised. Memory does not grow with the length of a clip.
    """

    def __init__(self, output: str, *, recipe: Recipe | None = None, device: Device = "auto", sink: Sink | None = None) -> None:
        self.recipe = recipe = recipe or Recipe()
        self.plan = Plan(recipe, output)
        self.sync = Sync(recipe, device)
        self.crop = Crop(recipe, self.sync.model.resolution)
        self.paste = Paste(recipe, output)
        self.join = Join(recipe, output, sink or lookup(SINKS, "mp4", "sink")(output))

    def parts(self, pair: Pair) -> Iterator[Part]:
        """The first four stages, segment by segment; raises ClipError."""
        for span in self.plan(pair):
            for crops in self.crop(span):
                yield self.paste(self.sync(crops))

    def __call__(self, pair: Pair, *, on_part: Callable[[Part], None] | None = None) -> ClipRecord:
        try:
            parts = []
            for part in self.parts(pair):
                parts.append(part)
                if on_part:
                    on_part(part)
            return self.join(parts)
        except ClipError as error:
            return failed_record(Pair.failed(pair, error), self.recipe)


def lipsync(
    video: str | Path,
    audio: str | Path,
    output: str | Path,
    *,
    recipe: Recipe | None = None,
    device: Device = "auto",
    on_part: Callable[[Part], None] | None = None,
) -> ClipRecord:
    """Lip-sync one video to one speech and write the MP4 at ``output`` (a path or URI). Ray is not needed.

    ``record.status`` says whether it worked; ``record.error_code`` and ``record.error`` say why not.
    """
    with tempfile.TemporaryDirectory(prefix="latentsync-") as work:
        pair = Pair(clip_id=Path(str(output)).stem, video=str(video), audio=str(audio))
        return LipSync(work, recipe=recipe, device=device, sink=FileSink(str(output)))(pair, on_part=on_part)


def dub(pairs: Iterable[Pair], job: Job) -> Iterator[Part | ClipRecord]:
    """Dub pairs one after the other: every part as it is encoded, and each clip's record when it is finished."""
    model = LipSync(job.output, recipe=job.recipe, device=job.cluster.device, sink=lookup(SINKS, job.sink, "sink")(job.output))
    for pair in pairs:
        parts = []
        try:
            for part in model.parts(pair):
                parts.append(part)
                yield part
            yield model.join(parts)
        except ClipError as error:
            yield failed_record(Pair.failed(pair, error), job.recipe)
