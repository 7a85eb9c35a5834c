"""The six stages in one process: for one clip, notebooks and services, and what the Ray runner is tested against."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from itertools import pairwise, takewhile, zip_longest
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, cast

from latentsync_ray import storage
from latentsync_ray.ahead import ahead
from latentsync_ray.arguments import kind_of, one_of, path_text
from latentsync_ray.config import Job, Recipe, absolute
from latentsync_ray.disk import scratch
from latentsync_ray.errors import ClipError, ConfigError, InternalError
from latentsync_ray.preflight import check_recipe, resolved
from latentsync_ray.registry import SINKS, lookup
from latentsync_ray.sinks import Sink
from latentsync_ray.sinks.file import FileSink
from latentsync_ray.stages.failures import Failing, failed_record, failure_of
from latentsync_ray.stages.join import Join
from latentsync_ray.stages.rows import attempt, raise_settings
from latentsync_ray.stages.table import STAGES, Call, Settings, Stage, chain
from latentsync_ray.stages.under_way import Gauge, UnderWay
from latentsync_ray.types import UNUSABLE_ID, ClipPlan, ClipRecord, Device, Pair, Part, Row, Segment

if TYPE_CHECKING:
    from latentsync_ray.models import Model
    from latentsync_ray.stages.generate import Generate

__all__ = ["LipSync", "check_output", "lipsync", "listener", "logs_folder", "one_pass", "prepare"]

_BEFORE_MODEL = next(before.name for before, stage in pairwise(STAGES) if stage.model)
"""The stage whose rows wait for the model."""
_ENDINGS = (".mp4", ".m4v")
"""Names of the container that is written."""


class LipSync:
    """A warm model that dubs pair after pair.

    ``LipSync(output, recipe=recipe)(pair)`` writes ``{output}/clips/{clip_id}.mp4`` and returns the clip's record; an error
    in the clip's data is in the record, any other error is raised. Memory does not grow with the length of a clip.
    ``commit`` leaves the record in the output, for a driver that keeps a table; ``keep_faces`` the face tracks of the videos.
    ``device_memory`` are the bytes that the model may take on its device; by default ``device_share`` of all.
    """

    def __init__(
        self,
        output: str | PathLike[str],
        *,
        recipe: Recipe | None = None,
        device: Device = "auto",
        sink: Sink | None = None,
        commit: bool = False,
        keep_faces: bool = False,
        device_memory: float | None = None,
        device_share: float = 1.0,
    ) -> None:
        output = absolute(path_text(output, "output"))
        if Path(output).is_file():
            raise ConfigError(f"output is {output}, a file; name the folder that clips are written to")
        self.recipe = recipe = resolved(_recipe(recipe))
        one_of(device, Device, "device")
        asked = Settings(
            recipe,
            output,
            device,
            keep_faces,
            share_faces=commit,
            device_memory=device_memory,
            device_share=device_share,
        )
        self.stages = {stage.name: stage.make(asked) for stage in STAGES}
        self.join = Join(recipe, output, sink or lookup(SINKS, "mp4", "sink")(output), commit=commit)

    @property
    def model(self) -> Model:
        """The model that stays loaded."""
        return cast("Generate", self.stages["generate"]).model

    def stream(
        self, pair: Pair, *, sink: Sink | None = None, on_frames: Callable[[int], None] | None = None
    ) -> Iterator[ClipPlan | Part | ClipRecord]:
        """What is planned, every part as it is encoded, and at the end the clip's record.

        ``sink`` takes this clip in place of the usual one. ``on_frames(count)`` hears of new frames window by window, each of
        them once; what it raises ends the work.
        """
        kind_of(pair, Pair, "pair", 'a Pair, e.g. Pair(clip_id="anna", video="anna.mp4", audio="anna.wav")')
        cast("Generate", self.stages["generate"]).rest()
        rows: Iterable[Row] = [pair]
        parts: list[Part] = []
        try:
            for stage in STAGES:
                call = self.stages[stage.name]
                rows = _drawn(call, rows, on_frames or _nobody) if stage.model else chain([call], rows)
                if stage.gives is ClipPlan and stage.takes is not ClipPlan:
                    rows = plans = [cast("ClipPlan", row) for row in rows]
                    yield from plans
            for row in rows:
                parts.append(cast("Part", row))
                yield parts[-1]
            yield self.join(parts, sink=sink)
        except (ClipError, MemoryError, OSError) as error:
            if isinstance(failure := failure_of(error), InternalError):
                raise
            yield failed_record(pair, self.recipe, failure)

    def __call__(
        self,
        pair: Pair,
        *,
        on_part: Callable[[Part], None] | None = None,
        on_frames: Callable[[int], None] | None = None,
        on_phase: Callable[[str], None] | None = None,
    ) -> ClipRecord:
        """``on_phase`` is told what is under way, in a few words; ``on_part`` and ``on_frames`` as in ``lipsync``."""
        phase = on_phase or _nobody
        phase("reading the video and the speech")
        for result in self.stream(pair, on_frames=on_frames):
            if isinstance(result, ClipRecord):
                return result
            if isinstance(result, ClipPlan):
                phase(f"dubbing {len(result.source_frames)} frames")
                continue
            if on_part:
                on_part(result)
            if result.index + 1 == result.segment_count:
                phase("writing the MP4")
        raise AssertionError("a stream ends with a record")


def lipsync(
    video: str | PathLike[str],
    audio: str | PathLike[str],
    output: str | PathLike[str],
    *,
    recipe: Recipe | None = None,
    device: Device = "auto",
    overwrite: bool = True,
    on_part: Callable[[Part], None] | None = None,
    on_frames: Callable[[int], None] | None = None,
    on_phase: Callable[[str], None] | None = None,
) -> ClipRecord:
    """Lip-sync one video to one speech and write the MP4 at ``output`` (a path or URI). Ray is not needed.

    ``record.status`` says whether it worked; ``record.error_code`` and ``record.error`` say why not. ``on_part`` is called
    with each finished piece, for progress; ``on_frames`` with the number of new frames, window by window; ``on_phase`` with
    what is under way, in a few words. An existing output is replaced once the new one is finished, unless ``overwrite`` is
    false. Raises ConfigError when ``output`` is a folder, one of the inputs, no name of an
    MP4, or exists and shall be kept.
    """
    video, audio, output = (path_text(value, name) for name, value in (("video", video), ("audio", audio), ("output", output)))
    recipe = resolved(_recipe(recipe))
    one_of(device, Device, "device")
    check_output(video, audio, output, overwrite=overwrite)
    pair = Pair(clip_id=re.sub(UNUSABLE_ID, "_", Path(output).stem), video=video, audio=audio)
    phase = on_phase or _nobody
    phase("fetching the inputs")
    try:
        for uri in (video, audio):
            storage.fetch(uri)  # before a model is looked for: that takes longer, or a download
    except ClipError as error:
        return failed_record(pair, recipe, error)
    phase("loading the model")
    storage.check_writable(output)
    check_recipe(recipe, note=phase)
    with scratch() as work:
        model = LipSync(str(work), recipe=recipe, device=device, sink=FileSink(output))
        return model(pair, on_part=on_part, on_frames=on_frames, on_phase=on_phase)


def _drawn(call: Call, rows: Iterable[Row], on_frames: Callable[[int], None]) -> Iterator[Row]:
    """Rows through the stage with the model, in a thread of its own: meanwhile another makes the next, and the caller goes on.

    ``on_frames`` hears of all frames once, in the caller's thread.
    """

    def draw(give: Callable[[Row | int], None]) -> None:
        with closing(_apart(rows)) as prepared:
            for row in cast("Iterator[Segment]", prepared):
                told = 0

                def tell(count: int) -> None:
                    nonlocal told
                    told += count
                    give(count)

                made = call(row, on_frames=tell)
                tell(row.stop - row.start - told)  # frames without a face, or of a part that was there
                give(made)

    with closing(ahead(draw, news=lambda given: isinstance(given, int))) as drawn:  # also when a hearer ends the work
        for made in drawn:
            if isinstance(made, int):
                on_frames(made)
            else:
                yield made


def _nobody(_: object) -> None:
    """Hears of progress where nobody asked to."""


def _recipe(recipe: Recipe | None) -> Recipe:
    return kind_of(Recipe() if recipe is None else recipe, Recipe, "recipe", "a Recipe, e.g. Recipe(steps=10)")


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


def prepare(job: Job) -> Job:
    """The job with one model worker, this process: nothing has to be ready."""
    return job.model_copy(update={"cluster": job.cluster.model_copy(update={"generate_workers": (1, 1)})})


def one_pass(
    pairs: Iterable[Pair],
    job: Job,
    *,
    first: bool = True,
    on_phase: Callable[[str], None] | None = None,
    watch: Callable[[Callable[[], UnderWay]], None] | None = None,
    deadline: float | None = None,
) -> Iterator[Part | ClipRecord]:
    """Dub pairs in their order: every part as it is encoded, and each clip's record when it is finished.

    While the model works on one clip, the next is read already.

    A bug becomes the record of the clip that met it, so none is left for a second pass. ``on_phase`` is told what is under way,
    in a few words, ``watch`` where to ask what each stage has in work. After ``deadline`` (seconds since 1970) no clip begins;
    those left get no record.
    """
    sink, phase = lookup(SINKS, job.sink, "sink")(job.output), on_phase or _nobody
    phase("loading the model")
    memory = job.cluster.device_memory_gb and job.cluster.device_memory_gb * 1e9
    model = LipSync(
        job.output,
        recipe=job.recipe,
        device=job.cluster.device,
        sink=sink,
        commit=True,
        keep_faces=job.keep_faces,
        device_memory=memory,
    )
    phase("dubbing")
    gauge = Gauge()
    (watch or _nobody)(gauge)
    with ExitStack() as stack:
        stack.callback(gauge.empty)
        failed: set[str] = set()
        told: set[str] = set()
        rows: Iterable[Row] = _entered(takewhile(lambda _: deadline is None or time.time() < deadline, pairs), gauge)
        for stage, after in zip_longest(STAGES, STAGES[1:]):
            rows = _attempted(stage, model.stages[stage.name], rows, failed, gauge, after and after.name)
            if stage.model or stage.name == _BEFORE_MODEL:  # the device goes on from clip to clip
                rows = apart = _apart(rows)
                stack.callback(_ended, apart)
        parts: list[Part] = []
        for part in cast("Iterable[Part]", rows):
            if part.error_code:
                raise_settings(part)
                parts.clear()
                if part.clip_id not in told:  # two stages may have failed at once
                    told.add(part.clip_id)
                    yield failed_record(part, job.recipe)
                continue
            yield part
            parts.append(part)
            if len(parts) == part.segment_count:
                gauge.enter("join")
                with Failing() as met:
                    record = model.join(parts)
                gauge.leave("join")
                if met.failure is None:
                    yield record
                else:
                    yield failed_record(part, job.recipe, met.failure)
                parts.clear()


def _ended(rows: Generator[Row]) -> None:
    """Close what nobody takes from any more; a thread that still does after all patience does not hear it."""
    with suppress(ValueError):
        rows.close()


def _entered(pairs: Iterable[Row], gauge: Gauge) -> Iterator[Row]:
    """The same, each counted where it begins."""
    for pair in pairs:
        gauge.enter(STAGES[0].name)
        yield pair


def _attempted(
    stage: Stage, call: Call, rows: Iterable[Row], failed: set[str], gauge: Gauge, after: str | None
) -> Iterator[Row]:
    """Rows through a stage. An error about a clip becomes its row, and the rest of that clip is left out.

    A row has left the stage for the one ``after`` it with the first thing that is made of it.
    """
    for row in rows:
        here = True
        if row.error_code or row.clip_id not in failed:
            for made in attempt(call, row, stage.gives):
                if made.error_code:
                    failed.add(row.clip_id)
                if here:
                    gauge.leave(stage.name)
                here = False
                gauge.enter(after)
                yield made
        if here:
            gauge.leave(stage.name)


def _apart(rows: Iterable[Row]) -> Generator[Row]:
    """The same, made in a thread of their own."""

    def work(give: Callable[[Row], None]) -> None:
        for row in rows:
            give(row)

    return ahead(work)


def listener(job: Job, left: int) -> Callable[[Part | ClipRecord], None]:
    """Metrics are Ray's; without it there are none."""
    return lambda result: None


def logs_folder() -> str:
    """A process has no logs of workers."""
    return ""
