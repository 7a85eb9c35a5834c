"""The stages that make a clip's parts, in their order: what each is called, takes, gives and needs.

Whatever goes through all of them reads it here: both runners, what is asked of Ray, metrics and reports. A new stage is a file
beside this one and a line in ``STAGES``; one that only looks takes and gives the same noun. ``join`` is not in the list: it
takes all parts of a clip, and so its runner has to count them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from latentsync_ray.config import Recipe
from latentsync_ray.gate import Quality
from latentsync_ray.stages.crop import Crop
from latentsync_ray.stages.generate import Generate
from latentsync_ray.stages.paste import Paste
from latentsync_ray.stages.plan import Plan
from latentsync_ray.stages.track import Track
from latentsync_ray.storage_options import StorageOptions
from latentsync_ray.types import ClipPlan, ClipRecord, Device, FaceCrops, GeneratedFaces, Pair, Part, Row, TrackedFaces

__all__ = ["STAGES", "TIMED", "Call", "Settings", "Stage", "chain", "tasks"]

_GIB = 2**30

Call = Callable[..., Any]
"""A stage at work: one row in, one ``Row`` or an iterator of several out."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What stages are made with."""

    recipe: Recipe
    output: str
    device: Device = "auto"
    keep_faces: bool = False
    """Whether face tracks of videos stay in the output."""
    share_faces: bool = True
    """Whether other processes read them there meanwhile."""
    device_memory: float | None = None
    """Bytes that the model may take on its device; None: ``device_share`` of what that has."""
    device_share: float = 1.0
    quality: Quality | None = None
    """What clips have to reach, where those that do not are made again."""
    storage_options: StorageOptions = field(default_factory=dict, hash=False)
    """What processes that are not the driver's tell their ``storage``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One verb. The seconds it took are in the record's column ``{name}_seconds``, if there is one."""

    name: str
    takes: type[Row]
    gives: type[Row]
    make: Callable[[Settings], Call]
    memory: int = 0
    """Bytes that a large clip takes: 20 pictures of 3840 x 2160 are 0.5 GB, 128 crops of 512 px 0.1 GB."""
    model: bool = False
    """Has a process of its own, in which the model stays loaded."""
    fans_out: bool = False
    """Gives many small rows of one, which are worth a task each."""
    with_next: bool = False
    """Runs in one task with the next stage: what it fetched is used while it is at hand."""


STAGES: tuple[Stage, ...] = (
    Stage(
        name="plan",
        takes=Pair,
        gives=ClipPlan,
        make=lambda asked: Plan(asked.recipe, asked.output, asked.quality),
        with_next=True,
    ),
    Stage(
        name="track",
        takes=ClipPlan,
        gives=TrackedFaces,
        make=lambda asked: Track(asked.recipe, asked.output, keep=asked.keep_faces, share=asked.share_faces),
        memory=_GIB // 2,
        fans_out=True,
    ),
    Stage(name="crop", takes=TrackedFaces, gives=FaceCrops, make=lambda asked: Crop(asked.recipe), memory=_GIB // 2),
    Stage(
        name="generate",
        takes=FaceCrops,
        gives=GeneratedFaces,
        make=lambda asked: Generate(asked.recipe, asked.device, memory=asked.device_memory, share=asked.device_share),
        memory=4 * _GIB,
        model=True,
    ),
    Stage(
        name="paste",
        takes=GeneratedFaces,
        gives=Part,
        make=lambda asked: Paste(asked.recipe, asked.output),
        memory=_GIB // 2,
    ),
)


_COLUMNS = {field.name for field in fields(ClipRecord)}
TIMED = tuple(name for name in (*(stage.name for stage in STAGES), "join") if f"{name}_seconds" in _COLUMNS)
"""Stages whose seconds are in a clip's record, ``join`` included."""


def tasks(stages: Sequence[Stage] = STAGES) -> Iterator[tuple[Stage, ...]]:
    """The stages in groups that run in one task each."""
    group: list[Stage] = []
    for stage in stages:
        group.append(stage)
        if not stage.with_next:
            yield tuple(group)
            group = []


def chain(calls: Iterable[Call], rows: Iterable[Row]) -> Iterator[Row]:
    """Rows through one call after the other, each as soon as it is there."""
    for call in calls:
        rows = _through(call, rows)
    yield from rows


def _through(call: Call, rows: Iterable[Row]) -> Iterator[Row]:
    for row in rows:
        made = call(row)
        yield from [made] if isinstance(made, Row) else made
