"""A small Hugging Face hub on 127.0.0.1: enough of its API for the real client to list and download a repository."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["serve_hub"]


@contextlib.contextmanager
def serve_hub(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """The address of a hub with these repositories, which are the same at every commit; and what it is asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            path = self.path.partition("?")[0].strip("/")
            name = next((name for name in repositories if path.removeprefix("api/models/").startswith(name)), None)
            if name is None:
                return self._answer(404, b"", **{"X-Error-Code": "RepoNotFound"})
            files, rest = repositories[name], path.removeprefix("api/models/").removeprefix(name).strip("/")
            if path.startswith("api/models/") and rest.startswith("tree/"):
                tree = [{"type": "file", "path": file, "size": len(data), "oid": _oid(data)} for file, data in files.items()]
                return self._answer(200, json.dumps(tree).encode(), **{"Content-Type": "application/json"})
            if path.startswith("api/models/"):
                info = {"id": name, "siblings": [{"rfilename": file} for file in files]}
                return self._answer(200, json.dumps(info).encode(), **{"Content-Type": "application/json"})
            revision, _, file = rest.removeprefix("resolve/").partition("/")
            if file not in files:
                return self._answer(404, b"", **{"X-Error-Code": "EntryNotFound"})
            return self._answer(200, files[file], ETag=f'"{_oid(files[file])}"', **{"X-Repo-Commit": revision})

        def _answer(self, status: int, data: bytes, **headers: str) -> None:
            self.send_response(status)
            for header, value in headers.items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
