"""Reading request bodies, in memory or into files, never more than is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

__all__ = ["read_body", "read_model", "save_body"]

_Model = TypeVar("_Model", bound=BaseModel)

_MOST_JSON = 2_000_000
"""Bytes: ten thousand parts of an upload, generously."""


async def read_body(request: Request, most: int) -> bytes:
    """The whole body. Answers 413 when it is larger than ``most`` bytes."""
    _check_announced(request, most)
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > most:
            raise _too_large(most)
    return bytes(body)


async def read_model(request: Request, model: type[_Model]) -> _Model:
    """The body as JSON of a small ``model``; FastAPI's own parameters would read a body of any size."""
    try:
        return model.model_validate_json(await read_body(request, _MOST_JSON) or b"{}")
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from error


async def save_body(request: Request, target: Path, most: int, *, count: Callable[[int], int], room: int) -> None:
    """Write the body into a file. Answers 413 when it is larger than ``most`` bytes, or what ``count`` counts than ``room``."""
    _check_announced(request, min(most, room))
    size = 0
    with target.open("wb") as file:
        async for block in request.stream():
            size += len(block)
            if size > most or count(len(block)) > room:
                raise _too_large(min(most, room))
            file.write(block)


def _check_announced(request: Request, most: int) -> None:
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > most:
        raise _too_large(most)


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than the {most / 1e6:g} MB that this key may send")
