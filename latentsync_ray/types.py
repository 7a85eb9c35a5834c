"""The nouns of the house: what flows from stage to stage. Each is the one before it plus what a stage learned.

    Pair --plan--> ClipPlan --track--> TrackedFaces --crop--> FaceCrops --generate--> GeneratedFaces --paste--> Part
    --join--> ClipRecord

(``Clip`` is what plan learns of the clip itself, ``Segment`` what track learns and all nouns after it share.)

Axes: T output frames of the clip, F output frames of the segment (0 when its part already lies in storage), P pairs of a frame
and a face in it, A points of a face's edge (0 when it is not known), S crop side in px, D finished segments; K, B and C are the
model's own.
"""

from __future__ import annotations

import dataclasses as dc
import os
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import numpy as np

from latentsync_ray.arguments import given, path_text
from latentsync_ray.clip_record import ClipRecord
from latentsync_ray.row import LoopMode, Row, array

__all__ = [
    "UNUSABLE_ID",
    "UNUSABLE_NAME",
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
    "Span",
    "TrackedFaces",
]

Device = Literal["auto", "cuda", "mps", "cpu"]
"""Where a model runs; auto is the best that the machine has."""

UNUSABLE_ID = r"[/\\\x00-\x1f\x7f]|^\.|^$|\.\.|::"
"""What a clip id must not match, since it becomes a file name: a slash, a control character, "..", "::", a leading dot."""
UNUSABLE_NAME = r"\{\w+\}|(^|/)(\.|/|$)|[\\\x00-\x1f\x7f]|\.\.|::|[. ](/|$)|(?i:\.mp4)/"
"""The same for each piece of a clip's path; nor may a piece end in a dot or space, or a folder in ".mp4"."""


@dc.dataclass(frozen=True, slots=True)
class Span:
    """Output frames ``start`` to ``stop`` of a clip, and what a model has to know of the whole speech to hear them."""

    start: int
    stop: int
    fps: Fraction
    samples: int
    """Of the whole speech, at 16 kHz."""
    peak: float
    """Largest log10 mel power of the whole speech."""


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Pair(Row):
    """One request: lip-sync ``video`` to the speech in ``audio`` (paths or URIs). ``None`` means: as the recipe says."""

    video: str
    audio: str
    guidance_scale: float | None = None
    seed: int | None = None
    loop_mode: LoopMode | None = None
    face: str | None = None
    """Which face speaks; see ``Recipe.face``."""
    language: str | None = None
    """Of the speech, as a BCP 47 or ISO 639 code such as ``de`` or ``pt-BR``; None: as the audio file says."""
    clip_name: str | None = None
    """Where the clip shall lie: its path below ``clips/`` without ".mp4", e.g. ``talk/de``; None: its id."""
    consent: str | None = None
    """What says that who is shown and heard agreed, as text or a URI; None: nothing."""

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
            face: str | None = None,
            language: str | None = None,
            clip_name: str | None = None,
            consent: str | None = None,
            error_code: str | None = None,
            error: str | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        for name in ("video", "audio"):
            value = getattr(self, name)
            if not isinstance(value, str):
                object.__setattr__(self, name, path_text(value, f"{name} of clip {self.clip_id!r}"))
        for name in ("guidance_scale", "seed", "loop_mode", "face", "language", "clip_name", "consent"):
            object.__setattr__(self, name, given(getattr(self, name)))  # a row of pandas says NaN for nothing
        Row.__post_init__(self)  # super() does not know the class that slots make


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Clip(Pair):
    """A pair that was fetched and measured. The per-row settings are final from here on."""

    key: str = ""
    """Names the clip's parts: made from the recipe, the settings and the content of both inputs."""
    attempt: int = 0
    """How many others were made before, which fell short of the job's quality; seed and guidance are this one's."""
    first_key: str = ""
    """Names them, from what the first was made of and what its file says."""
    settings: str = ""
    """Of the settings that the row makes for itself; see ``config.own_settings``."""
    video_version: str = ""
    """What storage says of the file; see ``storage.version``."""
    audio_version: str = ""
    video_sha256: str = ""
    """Of its content, hex."""
    audio_sha256: str = ""
    frame_count: int = 0
    """Output frames of the clip."""
    segment_count: int = 0
    fps_num: int = 25
    fps_den: int = 1
    width: int = 0
    """Output size in px: as displayed (rotation applied), padded to even."""
    height: int = 0
    samples: int = 0
    """Of the whole speech, at 16 kHz."""
    mel_peak: float = 0.0
    """Largest log10 mel power of the whole speech: the reference level of its normalisation."""
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
    """A clip and which frames of its video it shows."""

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
    damaged: bool = False
    """Whether any frame of the video is: what decoding makes of one depends on where it began."""
    face_choice: str = ""
    """By which rule the face was chosen in the end; see ``faces.choose``."""
    face_tracks: str = ""
    """The tracks that get the speech somewhere in the clip, as numbers with commas."""
    faces_path: str | None = None
    """The file of the video's tracks, relative to the output, when it is kept."""
    track_seconds: float = 0.0

    @property
    def is_last(self) -> bool:
        """Whether the clip ends with it."""
        return self.index == self.segment_count - 1

    @property
    def span(self) -> Span:
        """What of the speech the segment is about."""
        return Span(self.start, self.stop, Fraction(self.fps_num, self.fps_den), self.samples, self.mel_peak)


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TrackedFaces(Segment):
    """Which faces of a segment get the speech, and where they are: pairs of a frame and a track, by track and then by frame."""

    source_frames: np.ndarray = array("F", np.int32)
    reasons: np.ndarray = array("R", np.uint8)
    """Why each frame is passed through, if it is: a ``reasons.Reason``. R is F, or 0 where that is not known."""
    frames: np.ndarray = array("P", np.int32)
    """Output frame of each pair, counted from the segment's first."""
    tracks: np.ndarray = array("P", np.int32)
    """Its track in the video."""
    affines: np.ndarray = array("P 2 3", np.float32)
    """Frame px -> px of the crop that the model's template describes."""
    weights: np.ndarray = array("P", np.float32)
    """How much of the new face is shown: 1, or less where it comes and goes."""
    outlines: np.ndarray = array("P A 2", np.float32)
    """The edge of the face, px of the crop."""

    @property
    def missing(self) -> int:
        """Frames of the segment in which no face gets the speech."""
        return len(self.source_frames) - len(np.unique(self.frames))

    def places(self, track: int) -> np.ndarray:
        """Where in the pairs each frame's face of that track is, -1 where there is none: int (F,)."""
        places = np.full(len(self.source_frames), -1)
        mine = np.flatnonzero(self.tracks == track)
        places[self.frames[mine]] = mine
        return places


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class FaceCrops(TrackedFaces):
    """Aligned faces of one segment, with the speech around it."""

    faces: np.ndarray = array("P S S 3", np.uint8)
    speech: np.ndarray = array("K B C", np.float32)
    """What the model hears, as its family prepares it (``models.ModelInfo.hear``)."""
    speech_change: np.ndarray = array("H", np.float32)
    """How much the sound changes from frame to frame; see ``measure``. H is F, or 0 of a segment that is finished."""
    speech_level: np.ndarray = array("L", np.float32)
    """How loud the speech is during each frame, dB of full scale; L is F, or 0 of a segment that is finished."""
    crop_seconds: float = 0.0


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class GeneratedFaces(TrackedFaces):
    """The same segment with new mouths."""

    faces: np.ndarray = array("P S S 3", np.uint8)
    """Grey levels; with ``recipe.paste=crop`` the codes of ``levels``."""
    crop_seconds: float = 0.0
    checkpoint: str = ""
    """Hash of the weights that made the faces."""
    precision: str = ""
    """Device and number format that made them, e.g. ``cuda sm_90 x132 bfloat16`` on an H100 of 132 multiprocessors: others give
    other last bits."""
    micro_batch: int = 1
    """Windows that a call of the model had."""
    card: str = ""
    """What the model ran on, e.g. ``NVIDIA H100 80GB HBM3``."""
    tflop: float = 0.0
    """10^12 floating-point operations that its windows took; NaN when nobody has counted them."""
    mouth_motion: np.ndarray = array("M", np.float32)
    """How much each new mouth differs from the one before; see ``measure``. NaN where unknown.
    M is F, or 0 of a segment that is finished."""
    speech_change: np.ndarray = array("H", np.float32)
    speech_level: np.ndarray = array("L", np.float32)
    generate_seconds: float = 0.0
    """Time of the device for the segment's windows, of calls that it shared with others in shares."""
    idle_seconds: float = 0.0
    """How long the device stood idle before these."""


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Part(Segment):
    """One encoded segment in storage."""

    uri: str = ""
    found: bool = False
    """Whether it lay in storage already: its seconds were spent by an earlier run or pass."""
    bytes: int = 0
    missing: int = 0
    """Frames in which no face gets the speech, passed through untouched."""
    passed: np.ndarray = array("N", np.int32)
    """How many of them for which reason; see ``reasons.counted``. N is 0 where that is not known."""
    crop_seconds: float = 0.0
    checkpoint: str = ""
    precision: str = ""
    micro_batch: int = 1
    card: str = ""
    tflop: float = 0.0
    mouth_motion: np.ndarray = array("M", np.float32)
    speech_change: np.ndarray = array("H", np.float32)
    speech_level: np.ndarray = array("L", np.float32)
    looked_at: np.ndarray = array("P 2", np.int32)
    """Output frame of each face that was pasted, counted from the segment's first, and its track in the video."""
    traits: np.ndarray = array("P 5", np.float32)
    """How each compares with what was filmed, and how both look coarsely; see ``quality.marks``."""
    grids: np.ndarray = array("P 2 8 12", np.uint8)
    cells: np.ndarray = array("W 8 12", np.float32)
    """What their cells show; see ``quality.marks``."""
    lips: np.ndarray = array("E 3", np.float32)
    """What the new lips do in each frame; see ``sync``. NaN where unknown."""
    generate_seconds: float = 0.0
    idle_seconds: float = 0.0
    paste_seconds: float = 0.0
