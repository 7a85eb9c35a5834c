"""The nouns of the house: what flows from stage to stage. Each is the one before it plus what a stage learned.

    Pair --plan--> ClipPlan --crop--> FaceCrops --generate--> GeneratedFaces --paste--> Part --join--> ClipRecord

(``Clip`` is what plan learns of the clip itself, ``Segment`` what the three middle nouns share.)

Array columns are declared once (axes, dtype). The declaration checks every row on construction, prints shapes and never pixels,
and builds the empty arrays of failed rows, so that all rows of one kind keep one schema.

Axes: T output frames of the clip, F output frames of the segment (0 when its part already lies in storage), S crop side in px,
K Whisper windows of 30 s, D finished segments.
"""

from __future__ import annotations

import dataclasses as dc
import os
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from latentsync_ray.arguments import path_text, short
from latentsync_ray.errors import ClipError

__all__ = [
    "UNUSABLE_ID",
    "Clip",
    "ClipPlan",
    "ClipRecord",
    "Device",
    "FaceCrops",
    "GeneratedFaces",
    "LoopMode",
    "Pair",
    "Part",
    "Row",
    "Segment",
    "array",
]

Device = Literal["auto", "cuda", "mps", "cpu"]
"""Where a model runs; auto is the best that the machine has."""

UNUSABLE_ID = r"[/\\\x00-\x1f\x7f]|^\.|^$|\.\.|::"
"""What a clip id must not match, since it becomes a file name: a slash, a control character, "..", "::", a leading dot."""

LoopMode = Literal["pingpong", "loop"]
"""How the video repeats when the audio is longer: forward-backward-forward, or from the start again."""


def array(axes: str, dtype: type[np.generic]) -> Any:
    """Declare an array column: letters are sizes shared across the row, digits are fixed, e.g. ``array("F S S 3",
    np.uint8)``.
    """
    shape = axes.split()
    empty = np.zeros([int(axis) if axis.isdigit() else 0 for axis in shape], dtype)
    return dc.field(metadata={"axes": shape, "dtype": empty.dtype}, default_factory=lambda: empty)


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One clip, or one piece of it, on its way. ``error_code`` is None as long as nothing went wrong."""

    clip_id: str
    error_code: str | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for field in dc.fields(self):
            if not field.metadata:
                continue
            value, axes, dtype = getattr(self, field.name), field.metadata["axes"], field.metadata["dtype"]
            where = f"{type(self).__name__}.{field.name} of clip {self.clip_id!r}"
            if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != len(axes):
                got = f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
                raise ValueError(f"{where} is {got}, expected {dtype} with axes {' '.join(axes)}")
            for axis, size in zip(axes, value.shape, strict=True):
                if size != (int(axis) if axis.isdigit() else sizes.setdefault(axis, size)):
                    raise ValueError(f"{where} is {value.shape}, expected axes {' '.join(axes)} with {sizes}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={short(value)}' for name, value in self.to_row().items())})"

    def to_row(self) -> dict[str, Any]:
        """The fields as a flat dict, arrays as they are: one row of a Ray Data block."""
        return {field.name: getattr(self, field.name) for field in dc.fields(self)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Build from a mapping; columns that are not fields are left out, numpy scalars become Python's."""
        return cls(**{field.name: _plain(row[field.name]) for field in dc.fields(cls) if field.name in row})

    @classmethod
    def of(cls, row: Row, **learned: Any) -> Self:
        """The next noun: everything of ``row`` that it also has, plus what was ``learned``."""
        return cls.from_row({**row.to_row(), **learned})

    @classmethod
    def of_failed(cls, row: Row, error: ClipError | None = None) -> Self:
        """The next noun for a clip that failed: scalars kept, arrays empty, the error noted (the first one stays)."""
        arrays = {field.name for field in dc.fields(cls) if field.metadata}
        kept = {name: value for name, value in row.to_row().items() if name not in arrays}
        if error is not None and not row.error_code:
            kept |= {"error_code": error.code, "error": str(error)}
        return cls.from_row(kept)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Pair(Row):
    """One request: lip-sync ``video`` to the speech in ``audio`` (paths or URIs). ``None`` means: as the recipe says."""

    video: str
    audio: str
    guidance_scale: float | None = None
    seed: int | None = None
    loop_mode: LoopMode | None = None
    language: str | None = None
    """Of the speech, as a BCP 47 or ISO 639 code such as ``de`` or ``pt-BR``; None: as the audio file says."""

    if TYPE_CHECKING:  # paths come in as str or Path, and are text from then on

        def __init__(
            self,
            *,
            clip_id: str,
            video: str | os.PathLike[str],
            audio: str | os.PathLike[str],
            guidance_scale: float | None = None,
            seed: int | None = None,
            loop_mode: LoopMode | None = None,
            language: str | None = None,
            error_code: str | None = None,
            error: str | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        for name in ("video", "audio"):
            value = getattr(self, name)
            if not isinstance(value, str):
                object.__setattr__(self, name, path_text(value, f"{name} of clip {self.clip_id!r}"))
        Row.__post_init__(self)  # super() does not know the class that slots make


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Clip(Pair):
    """A pair that was fetched and measured. The per-row settings are final from here on."""

    key: str = ""
    """Names the clip's parts: made from the recipe, the settings and the content of both inputs."""
    video_version: str = ""
    """With ``audio_version``: which content is at the two addresses; see ``stages.inputs``."""
    audio_version: str = ""
    frame_count: int = 0
    """Output frames of the clip."""
    segment_count: int = 0
    fps_num: int = 25
    fps_den: int = 1
    width: int = 0
    """Output size in px: as displayed (rotation applied), padded to even."""
    height: int = 0
    audio_steps: int = 0
    """Whisper steps (50 per second) in the whole audio."""
    mel_peak: float = 0.0
    """Largest log10 mel power of the whole audio: the reference level of its normalisation."""
    audio_channel: int | None = None
    """The channel, counted from 1, that the model hears because a mix of all would cancel; None: the mix."""
    deinterlaced: bool = False
    content_credentials: str | None = None
    """Which inputs carry a C2PA manifest: ``video``, ``audio`` or ``video, audio``."""
    tags: str = "{}"
    """The video's own tags that the result carries on, as JSON: name -> text."""
    subtitle_seconds: float = 0.0
    """Seconds of the clip in which the video's text subtitles hold: of its first pass; 0 when it has none."""
    plan_seconds: float = 0.0


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ClipPlan(Clip):
    """What one worker decodes in one pass: the whole clip, so that one face is followed from its beginning to its end."""

    source_frames: np.ndarray = array("T", np.int32)
    """Which source frame (display order) each output frame shows: the fps grid and the loop, decided once."""
    segment_stops: np.ndarray = array("N", np.int32)
    """Output frame after the last one of each of the clip's segments."""
    finished: np.ndarray = array("D", np.int32)
    """Indices of the clip's segments whose parts already lie in storage."""


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Segment(Clip):
    """Output frames ``start`` to ``stop`` of a clip: the unit of GPU work, of retry and of storage."""

    index: int = 0
    start: int = 0
    stop: int = 0
    corrupt_frames: int = 0
    crop_seconds: float = 0.0


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class FaceCrops(Segment):
    """Aligned faces of one segment, with the speech around it."""

    source_frames: np.ndarray = array("F", np.int32)
    faces: np.ndarray = array("G S S 3", np.uint8)
    """G is F, or 0 when no frame of the segment shows a face."""
    affines: np.ndarray = array("F 2 3", np.float32)
    """Frame px -> crop px of the ``crop size`` of the model's resolution."""
    found: np.ndarray = array("F", np.bool_)
    mel: np.ndarray = array("K 80 3000", np.float32)
    """Normalised log-mel of the Whisper windows that the segment touches."""
    first_window: int = 0


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class GeneratedFaces(Segment):
    """The same segment with new mouths."""

    source_frames: np.ndarray = array("F", np.int32)
    faces: np.ndarray = array("G S S 3", np.uint8)
    affines: np.ndarray = array("F 2 3", np.float32)
    found: np.ndarray = array("F", np.bool_)
    checkpoint: str = ""
    """Hash of the weights that made the faces."""
    precision: str = ""
    """Device and number format that made them, e.g. ``cuda sm_90 x132 bfloat16`` on an H100 of 132 multiprocessors: others give
    other last bits."""
    mouth_motion: np.ndarray = array("M", np.float32)
    """How much each new mouth differs from the one before; with ``speech_change`` see ``measure``. NaN where unknown.
    M is F, or 0 when nothing was measured."""
    speech_change: np.ndarray = array("M", np.float32)
    generate_seconds: float = 0.0


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Part(Segment):
    """One encoded segment in storage."""

    uri: str = ""
    bytes: int = 0
    missing: int = 0
    """Frames without a usable face, passed through untouched."""
    checkpoint: str = ""
    precision: str = ""
    mouth_motion: np.ndarray = array("M", np.float32)
    speech_change: np.ndarray = array("M", np.float32)
    generate_seconds: float = 0.0
    paste_seconds: float = 0.0


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ClipRecord(Row):
    """One clip as the world sees it, failed ones included: one row of the metadata table. None means: there is nothing."""

    video: str
    audio: str
    output: str | None = None
    output_path: str | None = None
    """The same, relative to the output folder: holds when the folder is moved."""
    status: Literal["ok", "failed"] = "failed"
    frames: int | None = None
    frames_without_face: int | None = None
    corrupt_frames: int | None = None
    fps: float | None = None
    duration: float | None = None
    """Seconds of the video stream."""
    sync_correlation: float | None = None
    """How well the mouth's motion agrees with the sound, -1 to 1 (see ``measure``); None when too little face is seen."""
    sync_lag_ms: float | None = None
    """The offset at which it agrees best; above 0 the lips are late."""
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    content_type: str | None = None
    language: str | None = None
    """Of the speech, as the pair or the audio file says it."""
    audio_channel: int | None = None
    """The channel, counted from 1, that the model heard because a mix of all would have cancelled; None: the mix."""
    deinterlaced: bool | None = None
    content_credentials: str | None = None
    """Which inputs carried Content Credentials (C2PA), which the result does not: ``video``, ``audio``, ``video, audio``."""
    seed: int | None = None
    guidance_scale: float | None = None
    steps: int | None = None
    loop_mode: LoopMode | None = None
    model: str | None = None
    checkpoint: str | None = None
    precision: str | None = None
    recipe: str | None = None
    """Fingerprint of the recipe."""
    version: str | None = None
    """Package version."""
    finished_at: datetime | None = None
    """UTC."""
    cost: float | None = None
    """Dollars by the server's tariff; None for clips that no server made."""
    plan_seconds: float | None = None
    crop_seconds: float | None = None
    generate_seconds: float | None = None
    paste_seconds: float | None = None
    join_seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """``to_row`` with the time as ISO 8601 text."""
        return {**self.to_row(), "finished_at": self.finished_at and self.finished_at.isoformat()}

    @property
    def ok(self) -> bool:
        """Whether there is a dubbed clip."""
        return self.status == "ok"

    @property
    def failed(self) -> bool:
        """Whether there is none; ``error_code`` and ``error`` say why."""
        return self.status != "ok"
