"""The HTTP application: routes, errors in the shapes that clients know, CORS. Runs under any ASGI server; knows no Ray."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse, Response

from latentsync_ray import __version__, redact
from latentsync_ray.errors import InputNotFound, StorageUnavailable
from latentsync_ray.serve.hosts import HostRouting
from latentsync_ray.serve.protocol import APP, InvalidInput
from latentsync_ray.serve.routes import requests, site, uploads
from latentsync_ray.serve.server import BadRequest, Overloaded, Server

__all__ = ["build_app"]

_LOG = logging.getLogger(__name__)
_EXPOSED = ["x-fal-request-id", "x-fal-error-type", "x-fal-request-timeout-type", "x-latentsync-seed", "etag"]


def build_app(server: Server) -> HostRouting:
    """The application that serves ``server``."""
    app = FastAPI(title=APP, version=__version__, summary="LatentSync lip sync, self-hosted", docs_url=None, redoc_url=None)
    app.state.server = server
    for each in (requests, uploads, site):
        app.include_router(each.router)

    @app.exception_handler(InvalidInput)
    def invalid(_: Request, error: InvalidInput) -> Response:
        return JSONResponse({"detail": error.detail}, 422)

    @app.exception_handler(RequestValidationError)
    def unreadable(_: Request, error: RequestValidationError) -> Response:
        detail = [{"loc": list(each["loc"]), "msg": each["msg"], "type": each["type"]} for each in error.errors()]
        return JSONResponse({"detail": detail}, 422)

    @app.exception_handler(Overloaded)
    def overloaded(_: Request, error: Overloaded) -> Response:
        return JSONResponse({"detail": str(error)}, 429)

    @app.exception_handler(BadRequest)
    def bad(_: Request, error: BadRequest) -> Response:
        return _failure(400, "bad_request", str(error))

    @app.exception_handler(StorageUnavailable)
    @app.exception_handler(InputNotFound)
    def storage(_: Request, error: Exception) -> Response:
        return _failure(500, "internal_error", "the storage of this server does not answer")

    @app.exception_handler(SQLAlchemyError)
    @app.exception_handler(OSError)
    @app.exception_handler(Exception)
    def broken(_: Request, error: Exception) -> Response:
        _LOG.error("a call failed: %s", redact.traceback_of(error))
        what = "the database of this server does not answer" if isinstance(error, SQLAlchemyError) else "the server failed"
        return _failure(500, "internal_error", f"{what}; its log says why")

    # The middleware added last is the outermost: browsers' preliminary requests are answered before anything is looked at.
    app.add_middleware(
        CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"], expose_headers=_EXPOSED, max_age=3600
    )
    return HostRouting(app)


def _failure(code: int, error_type: str, detail: str) -> Response:
    return JSONResponse({"detail": detail, "error_type": error_type}, code, headers={"x-fal-error-type": error_type})
