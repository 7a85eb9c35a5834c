"""What needs no key: media, the playground, the shipped clip, the endpoint's description, webhook keys, health."""

from __future__ import annotations

from importlib.resources import files as package_files
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response

from latentsync_ray.serve.protocol import APP
from latentsync_ray.serve.server import Base, ServerState
from latentsync_ray.serve.webhooks import jwks

__all__ = ["demo", "description", "health", "media", "page", "page_part", "page_settings", "ready", "router", "webhook_keys"]

router = APIRouter()

_INLINE = ("video/", "audio/", "image/")
_SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'; media-src 'self'"}
"""Uploads lie on the playground's own origin, so none of them may become a page."""
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@router.get("/files/{token}/{name}")
@router.head("/files/{token}/{name}", include_in_schema=False)
def media(token: str, name: str, server: ServerState) -> Response:
    """An upload or a result, whole or a range of it."""
    row = server.files.get(token)
    if row is None or row.size is None:
        raise HTTPException(404, "no such file: never here, not complete, or cleaned away")
    shown = row.content_type.startswith(_INLINE) and "svg" not in row.content_type.lower()
    return FileResponse(
        server.files.local(row),
        media_type=row.content_type,
        filename=row.name,
        content_disposition_type="inline" if shown else "attachment",
        headers={**_SAFE, "Cache-Control": "public, max-age=3600, immutable"},
    )


@router.get("/demo/{name}")
@router.head("/demo/{name}", include_in_schema=False)
def demo(name: str, server: ServerState) -> Response:
    """The clip and the speech that ship with the package."""
    path = server.files.named(f"demo/{name}")
    if path is None:
        raise HTTPException(404, "only demo.mp4 and demo.wav are here")
    return FileResponse(path, headers=_SAFE)


@router.get("/", include_in_schema=False)
def page() -> Response:
    """The playground."""
    return HTMLResponse(_page_file("index.html"), headers={"Content-Security-Policy": _PAGE_POLICY})


@router.get("/playground/{name}", include_in_schema=False)
def page_part(name: str) -> Response:
    """Its script and its style."""
    kinds = {"playground.js": "text/javascript", "playground.css": "text/css"}
    if name not in kinds:
        raise HTTPException(404, "no such file")
    return Response(_page_file(name), media_type=kinds[name], headers={"Cache-Control": "no-cache"})


@router.get("/playground.json", include_in_schema=False)
def page_settings(server: ServerState) -> Response:
    """What the playground has to know."""
    settings = server.settings
    about = {
        "app": APP,
        "model": settings.recipe.model,
        "open": bool(settings.browser_key),
        "tariff": settings.tariff.model_dump(),
    }
    return JSONResponse(about)


@router.get("/rest/.well-known/jwks.json")
@router.get("/.well-known/jwks.json")
def webhook_keys(server: ServerState) -> Response:
    """The public key of webhook signatures."""
    return JSONResponse(jwks(server.keys.signer()), headers={"Cache-Control": "public, max-age=3600"})


@router.get("/api/openapi/queue/openapi.json", include_in_schema=False)
def description(request: Request, base: Base, endpoint_id: str = APP) -> Response:
    """The endpoint as OpenAPI, where the hosted one has it."""
    if endpoint_id != APP:
        raise HTTPException(404, f"only {APP} is served here")
    document: dict[str, Any] = {**request.app.openapi(), "servers": [{"url": base}]}
    return JSONResponse(document)


@router.get("/health")
def health() -> Response:
    """The process answers."""
    return JSONResponse({"status": "ok"})


@router.get("/ready")
def ready(server: ServerState) -> Response:
    """The queue can be reached; with how many requests are in each state."""
    try:
        return JSONResponse({"status": "ready", "model": server.settings.recipe.model, "requests": server.queue.counts()})
    except SQLAlchemyError as error:
        return JSONResponse({"status": "unavailable", "detail": f"the database does not answer: {type(error).__name__}"}, 503)


def _page_file(name: str) -> str:
    return package_files("latentsync_ray.serve").joinpath("playground", name).read_text(encoding="utf-8")
