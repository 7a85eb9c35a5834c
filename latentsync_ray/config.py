"""What can be asked for: Recipe (may change a pixel), Cluster (may only change speed), Job (both, and where).

Strict: an unknown key fails with its full path and the keys that are known there. Knows nothing about Ray or torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_serializer, field_validator, model_validator
from pydantic_core import PydanticCustomError

from latentsync_ray.errors import CLIP_ERRORS, InvalidPair, NotBegun
from latentsync_ray.naming import DEFAULT_TEMPLATE, check_template
from latentsync_ray.resources import Budget, Cluster, Strict
from latentsync_ray.storage_options import guarded
from latentsync_ray.types import UNUSABLE_ID, UNUSABLE_NAME, LoopMode, Pair

__all__ = [
    "FACE_RULE",
    "ROW_SETTINGS",
    "Budget",
    "Cluster",
    "Job",
    "Recipe",
    "Work",
    "absolute",
    "own_settings",
    "row_settings",
    "settle",
]

ROW_SETTINGS = ("guidance_scale", "seed", "loop_mode", "face")
"""Fields of the recipe that a row may set for itself."""
Work = Literal["faces", "generation", "encoding"]
"""What a clip goes through; each is made of the one before."""
_MADE_BY: dict[Work, tuple[str, ...]] = {
    "faces": ("model", "detector", "face", "parity", "fps", "fps_rule", "loop_mode", "segment_frames", "cpu_threads"),
    "generation": ("steps", "guidance_scale", "seed", "cache_interval", "dtype", "compile", "micro_batch"),
    "encoding": ("paste", "crf", "preset"),
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
        fields = self.model_dump(include=names)
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    def frame_rate(self, source: Fraction) -> Fraction:
        """Output frames per second of a clip whose own rate is ``source``."""
        return source if self.fps == "source" else Fraction(self.fps)


class Job(Strict):
    """One run: which pairs, where to, how, on what."""

    model_config = ConfigDict(hide_input_in_errors=True)  # it may hold secrets of storage

    manifest: str
    """Parquet, CSV or JSONL with columns ``video`` and ``audio``, or a folder with pairs of the same stem."""
    output: str
    """Folder or URI; receives ``clips/`` and ``metadata/``."""
    sink: str = "mp4"
    recipe: Recipe = Recipe()
    cluster: Cluster = Cluster()
    failure_budget: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the manifest's clips that may fail before the job counts as failed (exit code 1). All are tried either way."""
    mixed_recipes: bool = False
    """Go on in an output whose finished clips were made with another recipe; by default that is refused."""
    keep_faces: bool = False
    """Keep the face tracks of videos in ``faces/`` of the output, as Parquet: later jobs reuse them, and people read them."""
    clip_name: str = DEFAULT_TEMPLATE
    """Where clips lie below ``clips/`` of the output, without ".mp4": columns of the manifest in braces, ``video_stem`` and
    ``audio_stem``, e.g. ``{video_stem}/{language}``. Finished clips stay where they are when it changes."""
    on_change: Literal["redo", "keep", "fail"] = "redo"
    """What to do with a finished clip whose video, audio or row settings have changed; ``keep`` does not look."""
    content_hash: bool = False
    """Tell changed inputs by their content, which reads them all, and not by what storage says: size and checksum or time."""
    prune: bool = False
    """Remove the clips and rows that the manifest no longer has."""
    retry: tuple[str, ...] = ()
    """What to make again besides clips whose error may pass: error codes, ``failed`` (all that failed), ``missing``
    (finished, and the MP4 is not in the output any more) or ``all`` clips."""
    partition_by: tuple[str, ...] = ()
    """Columns of text by whose values the table lies in folders, e.g. ``language`` in ``metadata/language=de/``."""
    stop_at_failed: Annotated[float, Field(gt=0)] | None = None
    """End the run early: at so many failed clips, or below 1 at such a share of its first hundred clips or more."""
    budget: Budget = Budget()
    """Most hours or dollars of GPUs."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Most clips that a run takes up; the next run goes on with the others."""
    time_limit: Annotated[float, Field(gt=0)] | None = None
    """Time after which a run begins no other clip, in seconds or as text such as 90m or 2h; it finishes those it has begun, and
    exits with 3 when clips are left."""
    storage_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Protocol -> arguments of its fsspec filesystem, for every URI of the run: {gs: {project: ..., requester_pays: true}, s3:
    {endpoint_url: ..., profile: ..., anon: true}}. What they do not say, the environment does. Secrets are shown nowhere."""

    if TYPE_CHECKING:  # paths come in as str or Path, and are text from then on

        def __init__(
            self,
            *,
            manifest: str | PathLike[str],
            output: str | PathLike[str],
            sink: str = "mp4",
            recipe: Recipe = ...,
            cluster: Cluster = ...,
            failure_budget: float = 0.0,
            mixed_recipes: bool = False,
            keep_faces: bool = False,
            clip_name: str = DEFAULT_TEMPLATE,
            on_change: Literal["redo", "keep", "fail"] = "redo",
            content_hash: bool = False,
            prune: bool = False,
            retry: str | Sequence[str] = (),
            partition_by: str | Sequence[str] = (),
            stop_at_failed: float | None = None,
            budget: Budget = ...,
            limit: int | None = None,
            time_limit: float | str | None = None,
            storage_options: Mapping[str, Mapping[str, Any]] = ...,
        ) -> None: ...

    @field_validator("storage_options")
    @classmethod
    def _guarded(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        try:
            return guarded(value)
        except ValueError as error:
            raise PydanticCustomError("storage_options", "{problem}", {"problem": str(error)}) from error

    @field_serializer("storage_options", when_used="json")
    def _hidden(self, value: dict[str, dict[str, Any]]) -> Any:
        return json.loads(json.dumps(value, default=str))

    @field_validator("time_limit", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        if isinstance(value, str) and (known := re.fullmatch(r"([\d.]+)\s*([smhd])", value.strip())):
            return float(known[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[known[2]]
        if isinstance(value, str) and not re.fullmatch(r"\s*[\d.]+\s*", value):
            raise PydanticCustomError("time_limit", "use seconds, or text such as 90m, 2h or 1d")
        return value

    @field_validator("clip_name")
    @classmethod
    def _template(cls, value: str) -> str:
        return check_template(value)

    @field_validator("retry", mode="before")
    @classmethod
    def _codes(cls, value: Any) -> Any:
        """Words apart by commas, or a list of them."""
        words = re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else value or ()
        known = ["failed", "missing", "all", *(code for code in CLIP_ERRORS if code != NotBegun.code)]
        if not isinstance(words, list | tuple) or not set(words) <= set(known):
            raise PydanticCustomError("retry", "use {known}", {"known": ", ".join(known)})
        return tuple(words)

    @field_validator("partition_by", mode="before")
    @classmethod
    def _columns(cls, value: Any) -> Any:
        """One name, or a list of them."""
        names = (value,) if isinstance(value, str) else tuple(value or ()) if isinstance(value, list | tuple | None) else value
        if not isinstance(names, tuple) or not all(isinstance(name, str) and name for name in names):
            raise PydanticCustomError("partition_by", "use the name of a column, or a list of them")
        if len(set(names)) < len(names):
            raise PydanticCustomError("partition_by", "name each column once")
        return names

    @field_validator("stop_at_failed")
    @classmethod
    def _whole_or_share(cls, value: float | None) -> float | None:
        if value is not None and value >= 1 and value != int(value):
            raise PydanticCustomError("stop_at_failed", "use a whole number of clips, or a share below 1")
        return value

    @field_validator("manifest", "output", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        if isinstance(value, PathLike):
            value = fspath(value)
        if isinstance(value, str) and not value.strip():
            raise ValueError("must not be empty")
        return value

    @model_validator(mode="before")
    @classmethod
    def _no_relative_output_on_a_cluster(cls, values: Any) -> Any:
        """Below the folder that a driver happens to be in, which may be one of Ray's that is removed with the job."""
        if isinstance(values, dict):
            output, cluster = values.get("output"), values.get("cluster") or {}
            address = cluster.get("address") if isinstance(cluster, dict) else getattr(cluster, "address", None)
            text = fspath(output) if isinstance(output, str | PathLike) else "/"
            if address and isinstance(text, str) and "://" not in text and not text.startswith("/"):
                raise ValueError(f"output is relative ({text}), and cluster.address is set: name a URI or a path from the root")
        return values

    @field_validator("output")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return absolute(value)


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


def absolute(output: str) -> str:
    """An output as workers in other folders find it, and readers of its records: URIs as they are, paths from the root."""
    return output if "://" in output else str(Path(output).expanduser().absolute())
