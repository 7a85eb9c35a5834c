"""A model that stays loaded, and the six stages around it: for notebooks and services."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, cast

from latentsync_ray.ahead import ahead, apart
from latentsync_ray.arguments import kind_of, one_of, path_text
from latentsync_ray.config import Quality, Recipe, Signing, absolute
from latentsync_ray.errors import ClipError, ConfigError, InternalError
from latentsync_ray.preflight import resolved
from latentsync_ray.registry import SINKS, lookup
from latentsync_ray.sinks import Sink
from latentsync_ray.stages.failures import failed_record, failure_of
from latentsync_ray.stages.join import Join, steps
from latentsync_ray.stages.table import STAGES, Call, Settings, chain
from latentsync_ray.types import ClipPlan, ClipRecord, Device, Pair, Part, Row, Segment

if TYPE_CHECKING:
    from latentsync_ray.models import Model
    from latentsync_ray.stages.generate import Generate

__all__ = ["LipSync", "nobody", "recipe_of"]


class LipSync:
    """A warm model that dubs pair after pair.

    ``LipSync(output, recipe=recipe)(pair)`` writes ``{output}/clips/{clip_id}.mp4`` and returns the clip's record; an error
    in the clip's data is in the record, any other error is raised. Memory does not grow with the length of a clip.
    ``commit`` leaves the record in the output, for a driver that keeps a table; ``keep_faces`` the face tracks of the videos.
    ``signing`` has every clip signed; see ``check_signing``. ``quality`` is a runner's affair: a clip that falls short of it
    fails as ``try_again``.
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
        signing: Signing | None = None,
        quality: Quality | None = None,
    ) -> None:
        output = absolute(path_text(output, "output"))
        if Path(output).is_file():
            raise ConfigError(f"output is {output}, a file; name the folder that clips are written to")
        self.recipe = recipe = resolved(recipe_of(recipe))
        one_of(device, Device, "device")
        asked = Settings(
            recipe,
            output,
            device,
            keep_faces,
            share_faces=commit,
            device_memory=device_memory,
            device_share=device_share,
            quality=quality,
        )
        self.stages = {stage.name: stage.make(asked) for stage in STAGES}
        taker = sink or lookup(SINKS, "mp4", "sink")(output)
        self.join = Join(recipe, output, taker, commit=commit, steps=steps(signing, quality))

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
                rows = _drawn(call, rows, on_frames or nobody) if stage.model else chain([call], rows)
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
        phase = on_phase or nobody
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


def _drawn(call: Call, rows: Iterable[Row], on_frames: Callable[[int], None]) -> Iterator[Row]:
    """Rows through the stage with the model, in a thread of its own: meanwhile another makes the next, and the caller goes on.

    ``on_frames`` hears of all frames once, in the caller's thread.
    """

    def draw(give: Callable[[Row | int], None]) -> None:
        with closing(apart(rows)) as prepared:
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


def nobody(_: object) -> None:
    """Hears of progress where nobody asked to."""


def recipe_of(recipe: Recipe | None) -> Recipe:
    return kind_of(Recipe() if recipe is None else recipe, Recipe, "recipe", "a Recipe, e.g. Recipe(steps=10)")
