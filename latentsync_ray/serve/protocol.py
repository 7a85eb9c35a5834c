"""What goes over the wire: the endpoint's input and output, the queue's status, and errors, as fal's clients read them.

Knows no HTTP server. Facts: the endpoint's page and the two clients, ``fal-client`` 1.0 and ``@fal-ai/client`` 1.10.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from latentsync_ray import redact
from latentsync_ray.serve.fetch import usable_url
from latentsync_ray.serve.tables import COMPLETED, IN_QUEUE, FileRow, LogRow, RequestRow

__all__ = [
    "APP",
    "BODY",
    "File",
    "InvalidInput",
    "LatentSyncInput",
    "LatentSyncOutput",
    "input_error",
    "parse_input",
    "status_body",
    "unfit",
]

APP = "fal-ai/latentsync"
_ERROR_PAGE = "https://docs.fal.ai/errors/#"
_SHOWN = 300
"""Characters of a wrong value that an error repeats: a ``data:`` URI is a whole file."""


class LatentSyncInput(BaseModel):
    """What the endpoint takes; unknown properties are passed over, as there."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    video_url: Annotated[str, Field(examples=["https://fal.media/files/koala/8teUPbRRMtAUTORDvqy0l.mp4"])]
    """The URL of the video to generate the lip sync for (http, https or data)."""
    audio_url: Annotated[str, Field(examples=["https://fal.media/files/lion/vyFWygmZsIZlUO4s0nr2n.wav"])]
    """The URL of the audio to generate the lip sync for (http, https or data)."""
    guidance_scale: Annotated[float, Field(ge=1, le=2)] = 1
    """How strongly lips follow the speech."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """Draws the starting noise; without one it is random, and the logs and a header say which it was."""
    loop_mode: Literal["pingpong", "loop"] | None = None
    """How the video repeats when the audio is longer; pingpong when left out."""

    @field_validator("video_url", "audio_url")
    @classmethod
    def _usable(cls, value: str) -> str:
        problem = usable_url(value)
        if problem:
            raise PydanticCustomError("url_parsing", "{problem}", {"problem": problem})
        return value


class File(BaseModel):
    """A file on this server."""

    url: str
    content_type: str | None = None
    file_name: str | None = None
    file_size: int | None = None

    @classmethod
    def of(cls, row: FileRow, url: str) -> File:
        """The file of a row, at ``url``."""
        return cls(url=url, content_type=row.content_type, file_name=row.name, file_size=row.size)


class LatentSyncOutput(BaseModel):
    """What the endpoint returns."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    video: File
    """The generated video with the lip sync."""


BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": LatentSyncInput.model_json_schema()}}}}
"""The input as OpenAPI has it: routes read it by themselves, so that errors are the endpoint's."""


class InvalidInput(Exception):
    """The input cannot be used; ``detail`` says which fields, in pydantic's shape."""

    def __init__(self, detail: list[dict[str, Any]]) -> None:
        super().__init__(detail)
        self.detail = detail


def parse_input(body: bytes) -> LatentSyncInput:
    """The input in a request's body (clients send none at all for an empty one). Raises InvalidInput."""
    try:
        content = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InvalidInput([_problem(["body"], "json_invalid", f"the body is not JSON: {error}", None)]) from error
    try:
        return LatentSyncInput.model_validate(content)
    except ValidationError as error:
        raise InvalidInput(
            [
                _problem(["body", *each["loc"]], each["type"], each["msg"], each.get("input"), each.get("ctx"))
                for each in error.errors(include_url=False)
            ]
        ) from error


def input_error(field: str, kind: str, message: str, value: Any = None) -> dict[str, Any]:
    """The body of a 422 about one field of the input."""
    return {"detail": [_problem(["body", field], kind, message, value)]}


def unfit(error_code: str, message: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a 422 for a clip that failed with one of this package's error codes."""
    audio = error_code == "unreadable_audio" or (error_code == "too_large" and "audio" in message)
    field = "audio_url" if audio else "video_url"
    return input_error(field, error_code, message, arguments.get(field))


def _problem(loc: list[Any], kind: str, message: str, value: Any, context: Mapping[str, Any] | None = None) -> dict[str, Any]:
    problem = {"loc": loc, "msg": message, "type": kind, "input": _shortened(value), "url": _ERROR_PAGE + kind}
    return problem | ({"ctx": {name: _shortened(each) for name, each in context.items()}} if context else {})


def _shortened(value: Any) -> Any:
    """``value`` as an error may repeat it: no secrets of addresses, long texts cut, of mappings and lists only what fits."""
    if isinstance(value, str):
        value = value.encode(errors="replace").decode()  # a lone surrogate cannot be sent
        value = redact.text(redact.shown(value))
        return value if len(value) <= _SHOWN else f"{value[:_SHOWN]}... ({len(value)} characters)"
    if isinstance(value, dict):
        return {str(name)[:_SHOWN]: _shortened(each) for name, each in list(value.items())[:20]}
    if isinstance(value, list):
        return [_shortened(each) for each in value[:20]]
    plain = value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
    return value if plain else str(value)[:_SHOWN]  # JSON has no infinities


def status_body(
    row: RequestRow, urls: Mapping[str, str], *, logs: Iterable[LogRow] | None, position: int = 0
) -> dict[str, Any]:
    """What the status of a request looks like; ``urls`` are its three."""
    body: dict[str, Any] = {"status": row.status, "request_id": row.id, **urls}
    if row.status == IN_QUEUE:
        return body | {"queue_position": position}
    body["logs"] = None if logs is None else [_log_line(line) for line in logs]
    if row.status == COMPLETED:
        body["metrics"] = {"inference_time": (row.finished or 0) - (row.started or row.finished or 0)}
        if row.code != 200:
            detail = (row.body or {}).get("detail")
            body["error"] = detail if isinstance(detail, str) else "; ".join(str(each["msg"]) for each in detail or ())
            body["error_type"] = (row.body or {}).get("error_type", "invalid_input")
    return body


def _log_line(line: LogRow) -> dict[str, str]:
    """A log entry as clients type it."""
    moment = datetime.fromtimestamp(line.time, UTC).isoformat(timespec="milliseconds")
    return {"message": line.message, "timestamp": moment, "level": line.level, "source": "USER"}
