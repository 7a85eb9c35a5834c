"""What can be asked for: Recipe (may change a pixel), Cluster (may only change speed), Job (both, and where).

Strict: an unknown key fails with its full path and the keys that are known there. Knows nothing about Ray or torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from fractions import Fraction
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator, model_validator
from pydantic_core import PydanticCustomError

from latentsync_ray.errors import InvalidPair
from latentsync_ray.storage_options import guarded
from latentsync_ray.types import UNUSABLE_ID, Device, LoopMode, Pair

__all__ = [
    "FACE_RULE",
    "ROW_SETTINGS",
    "Cluster",
    "Job",
    "Recipe",
    "Work",
    "absolute",
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


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class Recipe(_Strict):
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


class Cluster(_Strict):
    """Everything that may only change speed: two clusters give the same files, byte for byte, on the same kind of processor.

    On GPUs, ``recipe.micro_batch`` has to be a number for that: how many windows ``auto`` takes depends on their memory.
    """

    runner: Literal["ray", "local"] = "ray"
    """Ray Data over a cluster or this machine, or all stages in this process."""
    address: str | None = None
    """Ray cluster to join, e.g. "auto" or "ray://head:10001"; by default a new one on this machine."""
    device: Device = "auto"
    """Where the model runs."""
    generate_gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs per model worker; by default 1 when the cluster has GPUs, else 0."""
    accelerator: str | None = None
    """Kind of GPU that models run on, by Ray's name for it, e.g. A100; by default the one that the cluster has most of.

    Two kinds differ in last bits, and the segments of a clip must not.
    """
    device_memory_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """What a model worker has of its device's memory, in GB; by default asked from the device. ``recipe.micro_batch`` has to
    fit it."""
    peak_tflops: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """What the device can do at best, dense bf16, for the summary of a run; by default from a table of cards."""
    generate_workers: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Fewest and most model workers; by default up to one per GPU that the cluster has when the job starts, or one in all."""
    generate_cpus: Annotated[float, Field(ge=0)] = 0.5
    """CPUs reserved per model worker."""
    track_cpus: Annotated[float, Field(gt=0)] | None = None
    """CPUs reserved per video that is looked through; by default the one that it keeps busy, or half of it on nodes of fewer
    than four."""
    crop_cpus: Annotated[float, Field(gt=0)] | None = None
    """CPUs reserved per segment that is cut out; by default as ``track_cpus``."""
    paste_cpus: Annotated[float, Field(gt=0)] | None = None
    """CPUs reserved per encoding task; by default as ``track_cpus``."""
    shard_clips: Annotated[int, Field(ge=1)] = 100_000
    """Clips given to Ray at once (about 1 KB of the driver's memory each); between two shards the pipeline runs empty."""
    passes: Annotated[int, Field(ge=1, le=10)] = 3
    """How often clips whose worker died are tried before they are recorded as ``worker_died``."""
    object_store_gb: Annotated[float, Field(gt=0)] | None = None
    """Ray object store of a cluster started here."""
    no_progress_seconds: Annotated[float, Field(gt=0)] = 1800
    """A pass in which nothing moves for so long is ended and tried again; if it is the first and gave nothing, the job ends."""


class Job(_Strict):
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
    retry_failed: bool = False
    """Also redo clips that an earlier run recorded as failed for a reason in their data."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Most clips that a run takes up; the next run goes on with the others."""
    time_limit: Annotated[float, Field(gt=0)] | None = None
    """Time after which a run begins no other clip, in seconds or as text such as 90m or 2h; it finishes those it has begun, and
    exits with 3 when clips are left."""
    storage_options: dict[str, dict[str, Any]] = {}
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
            retry_failed: bool = False,
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


def settle(pair: Pair, recipe: Recipe) -> Pair:
    """The pair with its open settings filled from the recipe. Raises InvalidPair for settings and names that cannot be."""
    if re.search(UNUSABLE_ID, pair.clip_id):
        raise InvalidPair(
            f"clip_id {pair.clip_id!r} cannot be a file name: no slash, '..', '::', control character, leading dot"
        )
    own = row_settings(pair.to_row())
    return Pair.of(pair, **{name: own.get(name, getattr(recipe, name)) for name in ROW_SETTINGS})


def absolute(output: str) -> str:
    """An output as workers in other folders find it, and readers of its records: URIs as they are, paths from the root."""
    return output if "://" in output else str(Path(output).expanduser().absolute())
