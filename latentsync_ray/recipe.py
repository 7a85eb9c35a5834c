"""Everything that may change a pixel, and which of it a row may set for itself. Knows nothing about Ray or torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from latentsync_ray.errors import InvalidPair
from latentsync_ray.marking import Label
from latentsync_ray.resources import Strict
from latentsync_ray.types import UNUSABLE_ID, UNUSABLE_NAME, LoopMode, Pair

__all__ = ["FACE_RULE", "ROW_SETTINGS", "Recipe", "Work", "own_settings", "row_settings", "settle"]

ROW_SETTINGS = ("guidance_scale", "seed", "loop_mode", "face")
"""Fields of the recipe that a row may set for itself."""
Work = Literal["faces", "generation", "encoding"]
"""What a clip goes through; each is made of the one before."""
_MADE_BY: dict[Work, tuple[str, ...]] = {
    "faces": ("model", "detector", "face", "parity", "fps", "fps_rule", "loop_mode", "segment_frames", "cpu_threads"),
    "generation": ("steps", "guidance_scale", "seed", "cache_interval", "dtype", "compile", "micro_batch"),
    "encoding": ("paste", "label", "watermark", "crf", "preset"),
}
"""The fields that first matter to each. Limits (``max_...``) change nothing that is made."""


FACE_RULE = r"speaking|largest|all|\d+|\d+(\.\d+)?,\d+(\.\d+)?(@\d+(\.\d+)?)?"
"""What ``Recipe.face`` may be."""


class Recipe(Strict):
    """Everything that can change a pixel of the result. Its fingerprint is in every part's name and every record."""

    model: str = "latentsync-1.6"
    """A name that ``latentsync-ray models`` lists, a folder or URI that holds a model, or "module:attribute" of your own."""
    steps: Annotated[int, Field(ge=1, le=999)] = 20
    """DDIM steps."""
    guidance_scale: Annotated[float, Field(ge=1, le=2)] = 1.0
    """Classifier-free guidance; 1 runs one branch and takes half the time. A manifest row may set its own."""
    cache_interval: Annotated[int, Field(ge=1, le=999)] = 1
    """DeepCache: the whole network runs in every n-th step only, its outermost layers in the others. 1 is exact, 3 takes two
    fifths of the arithmetic."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1247
    """Draws the starting noise. A manifest row may set its own."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Arithmetic of the model; auto is bfloat16 on CUDA, float16 on older CUDA devices and mps, float32 on CPU."""
    compile: bool = False
    """Have PyTorch compile the networks when a worker starts, which takes minutes, or seconds where it was done before. For
    GPUs; changes last bits."""
    micro_batch: Literal["auto"] | int = "auto"
    """Temporal windows per forward pass: one fixed shape, padded, because the batch shape changes last bits. auto is one on a
    CPU, and on a GPU as many of up to four as its memory holds."""
    cpu_threads: Annotated[int, Field(ge=1)] = 1
    """Threads of PyTorch on a CPU, whose number changes last bits, and of OpenCV, for the whole process that works.

    More than there are idle cores are much slower.
    """
    detector: str = "auto"
    """Face detector: mesh, mesh-v2, embedded, insightface, "module:Class" of your own, or the place of the mesh's files (a
    folder, URI, bundle). auto is the first of mesh, mesh-v2 and embedded that the machine has which starts the work; mesh turns
    into mesh-v2 where only that is."""
    face: str = "speaking"
    """Which face gets the speech: ``speaking`` (the one whose mouth goes with the video's own sound), ``largest``, ``all``, the
    one at a point ``x,y`` or ``x,y@seconds`` (px of the frame), or the number of a track. A manifest row may set its own."""
    paste: Literal["mask", "crop"] = "mask"
    """Blend only what the model generated (feathered), or the whole crop as the official code does."""
    label: Label | None = None
    """Text that is burnt into every frame, for those who watch."""
    watermark: str | None = None
    """An invisible mark in every frame: "module:Class" of your own, see ``watermark``."""
    parity: bool = False
    """Align as the official code does, with landmarks rounded to whole pixels and its running bias, and truncate as it does."""
    loop_mode: LoopMode = "pingpong"
    """How the video repeats when the audio is longer. A manifest row may set its own."""
    fps: Literal["source"] | Annotated[int, Field(ge=1, le=120)] = 25
    """Output frames per second. The models were trained at 25; "source" keeps the clip's own rate."""
    fps_rule: Literal["near", "cli"] = "near"
    """Which source frame an output frame shows: nearest slot, or as ``ffmpeg -r`` does (parity with the official script)."""
    segment_frames: Annotated[int, Field(ge=48, le=1024)] = 128
    """Frames per segment, rounded up to whole windows of the model (LatentSync's have 16 frames)."""
    crf: Annotated[int, Field(ge=0, le=51)] = 18
    """x264 quality; smaller is better and bigger."""
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = "veryfast"
    """x264 speed."""
    max_pixels: Annotated[int, Field(ge=1)] = 4096 * 2304
    """Larger frames are refused (``too_large``): a forged header must not allocate the machine's memory."""
    max_seconds: Annotated[float, Field(gt=0)] = 4 * 3600
    """Longer video or audio is refused (``too_large``)."""

    @field_validator("micro_batch", mode="before")
    @classmethod
    def _windows(cls, value: Any) -> Any:
        if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 64):
            raise PydanticCustomError("micro_batch", "use auto, or a whole number from 1 to 64")
        return value

    @field_validator("face", mode="before")
    @classmethod
    def _rule(cls, value: Any) -> Any:
        """The number of a face is text, and comes as a number from tables and YAML."""
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
        rule = str(int(value)) if whole else value
        if not (isinstance(rule, str) and re.fullmatch(FACE_RULE, rule)):
            raise PydanticCustomError(
                "face", "use speaking, largest, all, a point x,y or x,y@seconds in px, or a face's number"
            )
        return rule

    def fingerprint(self, upto: Work = "encoding") -> str:
        """16 hex digits that change with every field that can change the result: of all work, or of the work up to ``upto``.

        Limits are left out: raising one leaves finished clips as they are.
        """
        kinds = list(_MADE_BY)
        names = {name for kind in kinds[: kinds.index(upto) + 1] for name in _MADE_BY[kind]}
        fields = self.model_dump(include=names, exclude_none=True)
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    def frame_rate(self, source: Fraction) -> Fraction:
        """Output frames per second of a clip whose own rate is ``source``."""
        return source if self.fps == "source" else Fraction(self.fps)


def row_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a row makes for itself, as the recipe's fields read them; those that are None or missing are left out.

    Raises InvalidPair for what no recipe would allow.
    """
    given = {name: values[name] for name in ROW_SETTINGS if values.get(name) is not None}
    try:
        read = Recipe.model_validate(given)
    except ValidationError as error:
        told = ((each["loc"][0], each["input"], each["msg"]) for each in error.errors())
        problems = (f"{name} is {value!r}: {text[:1].lower()}{text[1:]}" for name, value, text in told)
        raise InvalidPair("; ".join(problems)) from error
    return {name: getattr(read, name) for name in given}


def own_settings(row: Pair | Mapping[str, Any]) -> str:
    """16 hex digits of the settings and the language that a row gives: another row when they change."""
    values = row.to_row() if isinstance(row, Pair) else row
    try:
        own = row_settings(values)
    except InvalidPair:
        own = {name: str(values.get(name)) for name in ROW_SETTINGS}
    own |= {"language": values["language"]} if values.get("language") else {}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]


def settle(pair: Pair, recipe: Recipe) -> Pair:
    """The pair with its open settings filled from the recipe. Raises InvalidPair for settings and names that cannot be."""
    if re.search(UNUSABLE_ID, pair.clip_id):
        raise InvalidPair(
            f"clip_id {pair.clip_id!r} cannot be a file name: no slash, '..', '::', control character, leading dot"
        )
    if pair.clip_name is not None and re.search(UNUSABLE_NAME, pair.clip_name):
        raise InvalidPair(
            f"clip_name {pair.clip_name!r} cannot be a path: no piece may be empty, begin or end with a dot, hold a backslash, "
            "or be a column in braces"
        )
    own = row_settings(pair.to_row())
    return Pair.of(pair, **{name: own.get(name, getattr(recipe, name)) for name in ROW_SETTINGS})
