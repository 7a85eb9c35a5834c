"""Uploads, in the ways of both clients: whole or in parts, through a token of the CDN or a signed URL."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from latentsync_ray.errors import TooLarge
from latentsync_ray.serve.files import MissingParts
from latentsync_ray.serve.routes.bodies import read_model, save_body
from latentsync_ray.serve.server import Base, Caller, Server, ServerState
from latentsync_ray.serve.settings import Key, Limits
from latentsync_ray.serve.tables import FileRow
from latentsync_ray.serve.urls import media_url

__all__ = ["begin", "complete", "complete_numbered", "initiate", "put", "put_numbered", "put_part", "router", "token", "upload"]

router = APIRouter()

_FileName = Annotated[str | None, Header(alias="X-Fal-File-Name", max_length=500)]


class _Announced(BaseModel):
    """What a client says of a file before it sends it."""

    file_name: str | None = None
    content_type: str | None = None


class _Part(BaseModel):
    partNumber: int  # noqa: N815  # the wire's name


class _Complete(BaseModel):
    parts: list[_Part]


@router.post("/rest/storage/auth/token")
def token(server: ServerState, caller: Caller, base: Base) -> Response:
    """A credential for the CDN routes."""
    secret, expires = server.keys.token(caller)
    return JSONResponse(
        {
            "token": secret,
            "token_type": "Bearer",
            "base_url": f"{base}/cdn",
            "expires_at": datetime.fromtimestamp(expires, UTC).isoformat(),
        }
    )


@router.post("/cdn/files/upload")
async def upload(request: Request, server: ServerState, caller: Caller, base: Base, file_name: _FileName = None) -> Response:
    """A whole file as the body."""
    row = await _reserve(server, caller, file_name, request.headers.get("content-type"))
    await _receive(request, server, row, caller.limits)
    return JSONResponse({"access_url": media_url(base, row)})


@router.post("/cdn/files/upload/multipart")
async def begin(request: Request, server: ServerState, caller: Caller, base: Base, file_name: _FileName = None) -> Response:
    """A file that will come in parts."""
    row = await _reserve(server, caller, file_name, request.headers.get("content-type"))
    return JSONResponse({"access_url": media_url(base, row), "uploadId": row.token})


def _callers_own(token: str, server: ServerState, caller: Caller) -> FileRow:
    row = server.files.get(token)
    if row is None or row.key_name != caller.name:
        raise HTTPException(404, "no such upload")
    return row


_CallersOwn = Annotated[FileRow, Depends(_callers_own)]


@router.put("/files/{token}/{name}/multipart/{upload_id}/{number}")
async def put_part(request: Request, server: ServerState, caller: Caller, row: _CallersOwn, number: int) -> Response:
    """One part, from 1 on, in any order."""
    return await _receive_part(request, server, row, caller.limits, number)


@router.post("/files/{token}/{name}/multipart/{upload_id}/complete")
async def complete(request: Request, server: ServerState, caller: Caller, row: _CallersOwn, base: Base) -> Response:
    """All parts are there."""
    return await _assemble(request, server, row, caller.limits, base)


@router.post("/rest/storage/upload/initiate")
@router.post("/rest/storage/upload/initiate-multipart")
async def initiate(request: Request, server: ServerState, caller: Caller, base: Base) -> Response:
    """A URL to PUT a file to, or its parts; whoever knows it may."""
    about = await read_model(request, _Announced)
    row = await _reserve(server, caller, about.file_name, about.content_type)
    return JSONResponse({"upload_url": f"{base}/uploads/{server.keys.capability(row.token)}", "file_url": media_url(base, row)})


def _capable(capability: str, server: ServerState) -> FileRow:
    token = server.keys.token_of(capability)
    row = server.files.get(token) if token else None
    if row is None:
        raise HTTPException(404, "no such upload")
    return row


_Capable = Annotated[FileRow, Depends(_capable)]


@router.put("/uploads/{capability}")
async def put(request: Request, server: ServerState, row: _Capable) -> Response:
    """A whole file as the body."""
    await _receive(request, server, row, _limits(server, row))
    return Response(status_code=200)


@router.put("/uploads/{capability}/{number}")
async def put_numbered(request: Request, server: ServerState, row: _Capable, number: int) -> Response:
    """One part, from 1 on, in any order."""
    return await _receive_part(request, server, row, _limits(server, row), number)


@router.post("/uploads/{capability}/complete")
async def complete_numbered(request: Request, server: ServerState, row: _Capable, base: Base) -> Response:
    """All parts are there."""
    return await _assemble(request, server, row, _limits(server, row), base)


async def _reserve(server: Server, key: Key, name: str | None, kind: str | None) -> FileRow:
    await run_in_threadpool(server.room, key.name, key.limits)
    return await run_in_threadpool(server.files.reserve, key.name, name, kind)


@asynccontextmanager
async def _body(request: Request, server: Server, row: FileRow, limits: Limits) -> AsyncIterator[Path]:
    """The body as a file, which counts as stored while this lasts."""
    if row.size is not None:
        raise HTTPException(403, "this upload is complete and cannot be changed")
    room = await run_in_threadpool(server.room, row.key_name, limits)
    with tempfile.TemporaryDirectory(prefix="latentsync-") as work, server.files.arriving(row.key_name) as count:
        local = Path(work) / "body"
        await save_body(request, local, limits.input_bytes, count=count, room=room)
        yield local


async def _receive(request: Request, server: Server, row: FileRow, limits: Limits) -> None:
    async with _body(request, server, row, limits) as local:
        await run_in_threadpool(server.files.store, row, local)


async def _receive_part(request: Request, server: Server, row: FileRow, limits: Limits, number: int) -> Response:
    async with _body(request, server, row, limits) as local:
        etag = await run_in_threadpool(_hash, local)
        try:
            await run_in_threadpool(server.files.store_part, row, number, local)
        except MissingParts as error:
            raise HTTPException(400, str(error)) from error
    return JSONResponse({"partNumber": number, "etag": etag}, headers={"ETag": f'"{etag}"'})


def _hash(local: Path) -> str:
    with local.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


async def _assemble(request: Request, server: Server, row: FileRow, limits: Limits, base: str) -> Response:
    sent = await read_model(request, _Complete)
    if row.size is None:  # otherwise the answer was lost, and is given again
        numbers = [part.partNumber for part in sent.parts]
        try:
            await run_in_threadpool(server.files.assemble, row, numbers, max_bytes=limits.input_bytes)
        except MissingParts as error:
            raise HTTPException(400, str(error)) from error
        except TooLarge as error:
            raise HTTPException(413, str(error)) from error
    return JSONResponse({"access_url": media_url(base, row)})


def _limits(server: Server, row: FileRow) -> Limits:
    key = server.keys.named(row.key_name)
    return key.limits if key else Limits()
