"""What can be asked for: Recipe (may change a pixel), Cluster (may only change speed), Job (both, and where).

The sections are in ``recipe``, ``resources`` and ``marking``. Strict: an unknown key fails with its full path and the keys that
are known there. Knows nothing about Ray or torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_serializer, field_validator, model_validator
from pydantic_core import PydanticCustomError

from latentsync_ray.errors import CLIP_ERRORS, NotBegun, TryAgain
from latentsync_ray.gate import Quality
from latentsync_ray.marking import Require, Signing
from latentsync_ray.naming import DEFAULT_TEMPLATE, check_template
from latentsync_ray.recipe import Recipe
from latentsync_ray.resources import Budget, Cluster, Strict
from latentsync_ray.storage_options import guarded

__all__ = ["Budget", "Cluster", "Job", "Quality", "Recipe", "Require", "Signing", "absolute"]


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
    require: Require = Require()
    """What each row must have."""
    marks: str | None = None
    """A CSV with the columns ``clip_id``, ``mark`` (keep, redo, drop) and ``seed``, as the page of ``report --html`` writes it:
    clips to be left as they are, made again with that seed, or removed."""
    quality: Quality | None = None
    """What a clip's measures have to reach, and what is done about one that falls short."""
    signing: Signing | None = None
    """Sign the clips with Content Credentials (C2PA)."""
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
            require: Require = ...,
            marks: str | PathLike[str] | None = None,
            quality: Quality | None = None,
            signing: Signing | None = None,
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
        known = ["failed", "missing", "all", *(code for code in CLIP_ERRORS if code not in (NotBegun.code, TryAgain.code))]
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

    @field_validator("manifest", "output", "marks", mode="before")
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


def absolute(output: str) -> str:
    """An output as workers in other folders find it, and readers of its records: URIs as they are, paths from the root."""
    return output if "://" in output else str(Path(output).expanduser().absolute())
