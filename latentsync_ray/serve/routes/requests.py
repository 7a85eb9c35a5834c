"""Run, submit, status, status stream, result, cancel: the routes of the endpoint itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from latentsync_ray.serve.protocol import APP, BODY, LatentSyncOutput, parse_input, status_body
from latentsync_ray.serve.routes.bodies import read_body
from latentsync_ray.serve.server import Base, Caller, Server, ServerState, base_of, caller_of, server_of
from latentsync_ray.serve.settings import Key
from latentsync_ray.serve.status import View
from latentsync_ray.serve.tables import COMPLETED, IN_QUEUE, RequestRow
from latentsync_ray.serve.urls import queue_urls

__all__ = ["cancel", "result", "router", "run", "status", "status_stream", "submit"]

router = APIRouter()

_RUN_POLL, _STREAM_POLL = 0.1, 0.2
_COMMENT_SECONDS = 15.0
"""A line between events keeps proxies and clients from giving up on a silent stream."""

_OUTPUT: dict[int | str, dict[str, Any]] = {200: {"model": LatentSyncOutput}}
_REQUEST = f"/queue/{APP}/requests/{{request_id}}"


@router.post(f"/{APP}", openapi_extra=BODY, responses=_OUTPUT)
async def run(request: Request, server: ServerState, caller: Caller, base: Base) -> Response:
    """Dub, and answer when it is done. A connection that drops cancels the work, unless its request can be asked for again."""
    asked = parse_input(await read_body(request, caller.limits.inline_bytes))
    row = await run_in_threadpool(server.accept, caller, asked, request.headers, base=base)
    try:
        while row.status != COMPLETED:
            if await request.is_disconnected():
                return Response(status_code=499)
            await asyncio.sleep(_RUN_POLL)
            row = (await _view(server, caller, row.id)).row
    finally:
        if row.status != COMPLETED and row.idempotency_key is None:
            server.queue.cancel(row.id)
    return _result(row)


@router.post(f"/queue/{APP}", openapi_extra=BODY)
async def submit(
    request: Request,
    server: ServerState,
    caller: Caller,
    base: Base,
    fal_webhook: Annotated[str | None, Query(max_length=2000)] = None,
) -> Response:
    """Accept a request; what becomes of it is asked for by its id."""
    asked = parse_input(await read_body(request, caller.limits.inline_bytes))
    row = await run_in_threadpool(server.accept, caller, asked, request.headers, base=base, webhook=fal_webhook)
    position = await run_in_threadpool(server.queue.position, row)
    body = {
        "request_id": row.id,
        "gateway_request_id": row.id,
        "status": IN_QUEUE,
        "queue_position": position,
        **queue_urls(base, row.id),
    }
    return JSONResponse(body, headers={"x-fal-request-id": row.id})


@router.get(f"{_REQUEST}/status")
async def status(request: Request, request_id: str, logs: str = "false") -> Response:
    """Where a request is; all lines about it so far when ``logs`` is true or 1."""
    # Dependencies of FastAPI would take longer than everything else here, and every waiting client calls ten times a second.
    view = await _view(await server_of(request), await caller_of(request), request_id)
    base, with_logs = await base_of(request), _wanted(logs)

    def make() -> bytes:
        lines = view.lines if with_logs else None
        return json.dumps(status_body(view.row, queue_urls(base, request_id), logs=lines, position=view.position)).encode()

    content = view.answer((base, with_logs), make)
    code = 200 if view.row.status == COMPLETED else 202
    return Response(content, code, headers={"x-fal-request-id": request_id}, media_type="application/json")


@router.get(f"{_REQUEST}/status/stream")
async def status_stream(request_id: str, server: ServerState, caller: Caller, base: Base, logs: str = "false") -> Response:
    """The same as server-sent events, one per change, each with the lines that are new; ends with the request."""
    view = await _view(server, caller, request_id)
    events = _events(server, view, queue_urls(base, request_id), with_logs=_wanted(logs))
    headers = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no", "x-fal-request-id": request_id}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _events(server: Server, view: View, urls: dict[str, str], *, with_logs: bool) -> AsyncIterator[str]:
    seen, before, spoke = 0, None, time.monotonic()
    while True:
        row, position = view.row, view.position
        lines = view.lines[seen:] if with_logs and row.status != IN_QUEUE else ()
        if lines or before != (row.status, position):
            before, seen = (row.status, position), seen + len(lines)
            body = status_body(row, urls, logs=lines if with_logs else None, position=position)
            spoke = time.monotonic()
            yield f"data: {json.dumps(body)}\n\n"  # ASCII: a client may decode each network packet by itself
        elif time.monotonic() - spoke > _COMMENT_SECONDS:
            spoke = time.monotonic()
            yield ": still here\n\n"
        if row.status == COMPLETED:
            return
        await asyncio.sleep(_STREAM_POLL)
        view = await server.status.look(row.id) or view


@router.get(_REQUEST, responses=_OUTPUT)
def result(request_id: str, server: ServerState, caller: Caller) -> Response:
    """What came of a request, as often as it is asked for while it is kept."""
    row = _owned(server.queue.get(request_id), caller, request_id)
    if row.status != COMPLETED:
        raise HTTPException(400, "Request is still in progress", headers={"x-fal-request-id": row.id})
    return _result(row)


@router.put(f"{_REQUEST}/cancel")
async def cancel(request_id: str, server: ServerState, caller: Caller) -> Response:
    """End a request: at once when it is waiting, at its next window when it is being worked on."""
    row = await run_in_threadpool(server.queue.get, request_id)
    if row is None or row.key_name != caller.name:
        return JSONResponse({"status": "NOT_FOUND", "detail": f"no request {request_id[:40]!r}"}, 404)
    before = await run_in_threadpool(server.queue.cancel, request_id)
    server.status.forget(request_id)
    if before == COMPLETED:
        return JSONResponse({"status": "ALREADY_COMPLETED", "detail": "the request is completed"}, 400)
    return JSONResponse({"status": "CANCELLATION_REQUESTED", "success": True}, 202)


async def _view(server: Server, caller: Key, request_id: str) -> View:
    view = await server.status.look(request_id)
    _owned(view and view.row, caller, request_id)
    assert view
    return view


def _owned(row: RequestRow | None, caller: Key, request_id: str) -> RequestRow:
    if row is None or row.key_name != caller.name:
        raise HTTPException(404, f"no request {request_id[:40]!r}: unknown, another key's, or cleaned away")
    return row


def _result(row: RequestRow) -> Response:
    body = row.body or {}
    headers = {"x-fal-request-id": row.id, "x-latentsync-seed": str(row.arguments["seed"])}
    if "error_type" in body:
        headers["x-fal-error-type"] = body["error_type"]
        if body["error_type"] == "request_timeout":
            headers["x-fal-request-timeout-type"] = "user"
    return JSONResponse(body, row.code or 500, headers=headers)


def _wanted(flag: str) -> bool:
    return flag.lower() in ("1", "true")
