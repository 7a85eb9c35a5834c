"""Uploads and media over HTTP: names that want to be paths, uploads of others, ranges, parts, and what is too much."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from serve_harness import OTHER, SECRET, Running, make_settings, running, wait_until
from serve_tricks import NAMES, ask_exactly, files_below, in_blocks, token_of

from latentsync_ray.serve.files import shown_name
from latentsync_ray.serve.settings import Key, Limits, hash_key

CONTENT = bytes(range(256)) * 2
IN_HEADERS = [trick for trick, (name, _) in NAMES.items() if name.isascii() and name.isprintable()]
"""Those that HTTP lets a client send in a header."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that only keeps files, in a folder with nothing beside it."""
    limits = {"small": Limits(input_bytes=1000), "full": Limits(stored_bytes=600), "shared": Limits(stored_bytes=600)}
    limits |= {f"room-{way}": Limits(stored_bytes=600) for way in ("signed", "direct")}
    keys = [Key(name=name, sha256=hash_key(name), limits=each) for name, each in limits.items()]
    keys += [Key(name="tester", sha256=hash_key(SECRET)), Key(name="other", sha256=hash_key(OTHER))]
    with running(make_settings(tmp_path_factory.mktemp("alone") / "data", keys=keys), work=False) as state:
        yield state


@pytest.fixture
def client(site: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=120) as each:
        yield each


@pytest.fixture
def send(site: Running, client: httpx.Client) -> Callable[..., str]:
    """Uploads ``CONTENT`` in one of two ways and returns where it is read."""

    def signed(name: str | None, kind: str | None, content: bytes = CONTENT) -> str:
        about = {"file_name": name, "content_type": kind}
        told = client.post("/rest/storage/upload/initiate", json=about, headers=site.headers).json()
        client.put(told["upload_url"], content=content).raise_for_status()
        return told["file_url"]

    def direct(name: str | None, kind: str | None, content: bytes = CONTENT) -> str:
        about = {"X-Fal-File-Name": name or "", "Content-Type": kind or ""}
        return client.post("/cdn/files/upload", content=content, headers=site.headers | about).json()["access_url"]

    return lambda *args, way="signed": (signed if way == "signed" else direct)(*args)


def key(secret: str) -> dict[str, str]:
    return {"Authorization": f"Key {secret}"}


@pytest.mark.parametrize(
    ("way", "trick"), [*(("signed", trick) for trick in NAMES), *(("direct", trick) for trick in IN_HEADERS)]
)
def test_names_are_no_paths(site: Running, client: httpx.Client, send: Any, trick: str, way: str) -> None:
    name, shown = NAMES[trick]
    folder = Path(site.server.settings.folder)
    before = files_below(folder)
    url = send(name, "video/mp4", way=way)
    assert url == f"{site.url}/files/{token_of(url)}/{quote(shown)}"
    assert files_below(folder) - before == {f"files/{token_of(url)}"}
    assert files_below(folder.parent) == {f"data/{name}" for name in files_below(folder)}, "nothing beside the folder"
    answer = client.get(url)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-disposition"] == f'inline; filename="{shown}"'
    assert not {"x-evil", "set-cookie"} & set(answer.headers)
    assert client.get(f"/files/{token_of(url)}/another-name").content == CONTENT, "only the token counts"


@pytest.mark.parametrize("trick", NAMES)
def test_shown_names(trick: str) -> None:
    name, shown = NAMES[trick]
    assert shown_name(name, "video/mp4") == shown
    assert shown_name(shown) == shown


def test_shown_names_without_a_name() -> None:
    assert shown_name(None) == "file"
    assert shown_name(None, "video/mp4; codecs=avc1") == "file.mp4"
    assert shown_name("..", "no type at all") == "file"
    assert shown_name("\u05e9\u05dc\u05d5\u05dd \u00e9t\u00e9.mp4") == "\u05e9\u05dc\u05d5\u05dd_\u00e9t\u00e9.mp4"


def test_names_beyond_ascii(client: httpx.Client, send: Any) -> None:
    url = send("\u00e9t\u00e9 \u05e9.mp4", "video/mp4")
    assert url.endswith("/%C3%A9t%C3%A9_%D7%A9.mp4"), "as URLs are written"
    answer = client.get(url)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert "filename*=utf-8''%C3%A9t%C3%A9_%D7%A9.mp4" in answer.headers["content-disposition"]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        pytest.param("v.mp4", None, "video/mp4", id="by-its-name"),
        pytest.param("v.mp4", "audio/mpeg", "audio/mpeg", id="as-announced"),
        pytest.param("v", None, "application/octet-stream", id="unknown"),
        pytest.param("v.mp4", "nonsense", "video/mp4", id="no-type"),
        pytest.param("v.mp4", "text/html\r\nX-Evil: 1", "video/mp4", id="lines-in-the-type"),
        pytest.param("v.mp4", "\u0432/\u0432", "video/mp4", id="type-beyond-ascii"),
        pytest.param("data:text/html\r\nX-Evil: 1,v.mp4", None, "video/mp4", id="lines-by-way-of-the-name"),
        pytest.param("data:\u0432/\u0432,", None, "application/octet-stream", id="type-beyond-ascii-by-way-of-the-name"),
        pytest.param("v.mp4", "video/" + "x" * 500, "video/" + "x" * 122, id="endless"),
    ],
)
def test_types(client: httpx.Client, send: Any, name: str, kind: str | None, expected: str) -> None:
    answer = client.get(send(name, kind))
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, expected, CONTENT)
    assert "x-evil" not in answer.headers


@pytest.mark.parametrize("kind", ["text/html", "application/xhtml+xml", "image/svg+xml", "text/javascript", "Video/mp4"])
def test_nothing_becomes_a_page(client: httpx.Client, send: Any, kind: str) -> None:
    answer = client.get(send("page.html", kind, b"<script>alert(1)</script>"))
    assert answer.headers["content-disposition"] == 'attachment; filename="page.html"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


@pytest.mark.parametrize(
    "path",
    [
        *("/files/../../queue.sqlite", "/files/../queue.sqlite/x", "/files/%2e%2e/queue.sqlite", "/files/..%2fqueue.sqlite/x"),
        *("/files/%2e%2e%2fqueue.sqlite/x", "/files/..%5cqueue.sqlite/x", "/files/..%252fqueue.sqlite/x", "/files/%00/x"),
        *("/files/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA/x", "/files/TOKEN%00/x", "/files/TOKEN%0a/x", "/files/TOKEN./x"),
        *("/files/./x", "/files/_work/x", "/demo/..%2fqueue.sqlite", "/demo/queue.sqlite", "/playground/..%2fapp.py"),
        *("/../../etc/passwd", "//etc/passwd"),
    ],
)
def test_addresses_of_nothing(site: Running, send: Any, path: str) -> None:
    good = f"/files/{token_of(send('v.mp4', None))}/x"
    assert ask_exactly(site.port, good) == (200, CONTENT), "this way of asking works"
    code, body = ask_exactly(site.port, path.replace("/files/TOKEN", good.removesuffix("/x")))
    assert code == 404
    assert b"SQLite" not in body


@pytest.mark.parametrize(
    ("asked", "code", "start", "end"),
    [
        *(("bytes=0-9", 206, 0, 10), ("bytes=5-", 206, 5, 512), ("bytes=-5", 206, 507, 512), ("bytes=0-0", 206, 0, 1)),
        *(("bytes=500-9999", 206, 500, 512), ("bytes=-9999", 206, 0, 512), ("bytes=511-511", 206, 511, 512)),
    ],
    ids=str,
)
def test_ranges(client: httpx.Client, send: Any, asked: str, code: int, start: int, end: int) -> None:
    url = send("v.mp4", None)
    for method in ("GET", "HEAD"):
        answer = client.request(method, url, headers={"Range": asked})
        assert answer.status_code == code
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/512"
        assert answer.headers["content-length"] == str(end - start)
        assert answer.content == (CONTENT[start:end] if method == "GET" else b"")


def test_ranges_beyond_the_end_and_none(client: httpx.Client, send: Any) -> None:
    url = send("v.mp4", None)
    for beyond in ("bytes=512-", "bytes=9999-10000"):
        answer = client.get(url, headers={"Range": beyond})
        assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */512")
    assert client.get(url, headers={"Range": "bytes=9-5"}).status_code in (400, 416)
    head = client.head(url)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "512", b"")
    assert head.headers["accept-ranges"] == "bytes"
    old = client.get(url, headers={"Range": "bytes=0-9", "If-Range": '"another"'})
    assert (old.status_code, old.content) == (200, CONTENT)


@pytest.fixture(params=["signed", "direct"])
def parts(request: pytest.FixtureRequest, site: Running, client: httpx.Client) -> Callable[..., Any]:
    """Begins an upload in parts as one of the two clients does."""

    def begin(secret: str = SECRET) -> SimpleNamespace:
        if request.param == "signed":
            about = {"file_name": "v.mp4", "content_type": "video/mp4"}
            told = client.post("/rest/storage/upload/initiate-multipart", json=about, headers=key(secret)).json()
            root, url, headers = told["upload_url"], told["file_url"], {}
        else:
            headers = key(secret)
            about = headers | {"X-Fal-File-Name": "v.mp4", "Content-Type": "video/mp4"}
            told = client.post("/cdn/files/upload/multipart", headers=about).json()
            root, url = f"{told['access_url']}/multipart/{told['uploadId']}", told["access_url"]

        def put(number: Any, content: bytes) -> httpx.Response:
            return client.put(f"{root}/{number}", content=content, headers=headers)

        def complete(*numbers: Any) -> httpx.Response:
            body = {"parts": [{"partNumber": number, "etag": "any"} for number in numbers]}
            return client.post(f"{root}/complete", json=body, headers=headers)

        return SimpleNamespace(url=url, root=root, put=put, complete=complete)

    return begin


def test_parts_in_any_order(site: Running, client: httpx.Client, parts: Any) -> None:
    upload, folder = parts(), Path(site.server.settings.folder)
    for number in (10, 2, 1):
        assert upload.put(number, b"outdated").status_code == 200
        answer = upload.put(number, b"part %d." % number)
        assert answer.headers["etag"] == f'"{answer.json()["etag"]}"'
    assert client.get(upload.url).status_code == 404, "not complete"
    assert upload.complete(2, 10, 1).status_code == 200
    answer = client.get(upload.url)
    assert (answer.content, answer.headers["content-type"]) == (b"part 1.part 2.part 10.", "video/mp4")
    assert not [name for name in files_below(folder) if token_of(upload.url) in name and "_work" in name], "parts are gone"
    assert upload.complete(2, 10, 1).json() == {"access_url": upload.url}, "asked again, as when the first answer was lost"
    assert upload.put(1, b"something else").status_code == 403, "and not to be changed"
    assert client.get(upload.url).content == answer.content


def test_parts_that_are_missing_or_wrong(client: httpx.Client, parts: Any) -> None:
    upload = parts()
    assert upload.complete().status_code == 400
    assert upload.complete(1).status_code == 400
    for number in (0, -1, 10_001):
        assert upload.put(number, b"x").status_code == 400, number
    for number in ("x", "..%2f..%2fx", "1.5", "%31%00"):
        assert upload.put(number, b"x").status_code in (404, 422), number
    assert upload.put(10_000, b"last").status_code == 200
    for missing in ((1, 10_000), (0, 10_000), (-1,), (10_001,), (10**30,)):
        answer = upload.complete(*missing)
        assert (answer.status_code, "not arrived" in answer.json()["detail"]) == (400, True)
    assert client.get(upload.url).status_code == 404
    assert upload.complete(10_000, 10_000).status_code == 200, "and it may be mended"
    assert client.get(upload.url).content == b"last"


def test_parts_that_are_too_large(client: httpx.Client, parts: Any) -> None:
    upload = parts("small")
    assert upload.put(1, b"x" * 1001).status_code == 413
    assert [upload.put(number, b"x" * 501).status_code for number in (1, 2)] == [200, 200]
    answer = upload.complete(1, 2)
    assert (answer.status_code, "together larger" in answer.json()["detail"]) == (413, True)
    assert client.get(upload.url).status_code == 404


def test_uploads_of_others(site: Running, client: httpx.Client, send: Any) -> None:
    told = client.post("/cdn/files/upload/multipart", headers=site.headers).json()
    root = f"{told['access_url']}/multipart/{told['uploadId']}"
    for headers, code in ((key(OTHER), 404), (key("unknown"), 401), ({}, 401)):
        assert client.put(f"{root}/1", content=b"x", headers=headers).status_code == code
        assert client.post(f"{root}/complete", json={"parts": [{"partNumber": 1}]}, headers=headers).status_code == code
    mine, yours = (
        client.post("/rest/storage/upload/initiate", json={}, headers=headers).json() for headers in (site.headers, key(OTHER))
    )
    capability = mine["upload_url"].rpartition("/")[2]
    token, _, signature = capability.partition(".")
    other = token_of(yours["file_url"])
    forged = [f"{other}.{signature}", f"{token}.{signature[:-1]}0x", token, f"{token}.", f".{signature}", f"{token}.%C3%A9"]
    for each in forged:
        for answer in (
            client.put(f"/uploads/{each}", content=b"x"),
            client.put(f"/uploads/{each}/1", content=b"x"),
            client.post(f"/uploads/{each}/complete", json={"parts": [{"partNumber": 1}]}),
        ):
            assert answer.status_code == 404, each
    assert client.get(mine["file_url"]).status_code == client.get(yours["file_url"]).status_code == 404
    for content, code in ((b"first", 200), (b"second", 403)):
        assert client.put(mine["upload_url"], content=content).status_code == code
    assert client.get(mine["file_url"]).content == b"first"


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "in-blocks"])
def test_uploads_that_are_too_large(client: httpx.Client, announced: bool) -> None:
    told = client.post("/rest/storage/upload/initiate", json={}, headers=key("small")).json()

    def body(size: int) -> Any:
        return b"x" * size if announced else in_blocks(b"x" * size)

    assert client.put(told["upload_url"], content=body(1001)).status_code == 413
    assert client.post("/cdn/files/upload", content=body(1001), headers=key("small")).status_code == 413
    assert client.get(told["file_url"]).status_code == 404
    assert client.put(told["upload_url"], content=body(1000)).status_code == 200
    assert client.get(told["file_url"]).content == b"x" * 1000


def test_uploads_that_break_off(site: Running, client: httpx.Client) -> None:
    arriving = site.server.files._arriving
    told = client.post("/rest/storage/upload/initiate", json={}, headers=site.headers).json()
    path = httpx.URL(told["upload_url"]).path
    with socket.create_connection(("127.0.0.1", site.port)) as connection:
        connection.sendall(f"PUT {path} HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\nhalf".encode())
        wait_until(lambda: arriving["tester"] == 4)
    wait_until(lambda: not arriving["tester"])
    assert client.get(told["file_url"]).status_code == 404
    assert client.put(told["upload_url"], content=b"again").status_code == 200
    assert client.get(told["file_url"]).content == b"again"


def test_the_room_of_a_key(site: Running, client: httpx.Client) -> None:
    upload = "/cdn/files/upload"
    codes = [client.post(upload, content=b"x" * 300, headers=key("full")).status_code for _ in range(3)]
    assert codes == [200, 200, 403]
    for path in ("/rest/storage/upload/initiate", "/rest/storage/upload/initiate-multipart", f"{upload}/multipart"):
        answer = client.post(path, json={}, headers=key("full"))
        assert (answer.status_code, "already stores" in answer.json()["detail"]) == (403, True)
    inline = {"video_url": "data:video/mp4;base64,AAAA", "audio_url": "data:audio/wav;base64,AAAA"}
    assert client.post("/queue/fal-ai/latentsync", json=inline, headers=key("full")).status_code == 403, (
        "inline ones are kept too"
    )
    assert client.post(upload, content=b"x", headers=site.headers).status_code == 200, "other keys have their own"


def test_uploads_at_the_same_time_share_the_room(site: Running, client: httpx.Client) -> None:
    arriving = site.server.files._arriving
    told = client.post("/rest/storage/upload/initiate", json={}, headers=key("shared")).json()
    path = httpx.URL(told["upload_url"]).path
    with socket.create_connection(("127.0.0.1", site.port)) as connection:
        connection.sendall(f"PUT {path} HTTP/1.1\r\nHost: here\r\nContent-Length: 500\r\n\r\n".encode() + b"x" * 400)
        wait_until(lambda: arriving["shared"] == 400)
        for content in (b"x" * 300, in_blocks(b"x" * 300)):
            assert client.post("/cdn/files/upload", content=content, headers=key("shared")).status_code == 413
        assert client.post("/cdn/files/upload", content=b"x" * 100, headers=key("shared")).status_code == 200
    wait_until(lambda: not arriving["shared"])
    assert client.post("/cdn/files/upload", content=b"x" * 300, headers=key("shared")).status_code == 200


def test_parts_take_room_before_they_are_a_file(client: httpx.Client, parts: Any, request: pytest.FixtureRequest) -> None:
    own = f"room-{request.node.callspec.params['parts']}"
    upload = parts(own)
    assert upload.put(1, b"x" * 500).status_code == 200
    assert upload.put(2, b"x" * 101).status_code == 413
    assert upload.put(2, b"x" * 100).status_code == 200
    assert upload.put(3, b"x").status_code == 403
    assert client.post("/rest/storage/upload/initiate", json={}, headers=key(own)).status_code == 403
    assert upload.complete(1, 2).status_code == 200
    assert client.get(upload.url).content == b"x" * 600


def test_what_is_said_of_an_upload_is_small(client: httpx.Client, site: Running, parts: Any) -> None:
    upload, long = parts(), b'{"parts": [' + b" " * 2_000_000 + b"]}"
    for url in (f"{upload.root}/complete", "/rest/storage/upload/initiate", "/rest/storage/upload/initiate-multipart"):
        assert client.post(url, content=long, headers=site.headers).status_code == 413
        assert client.post(url, content=b'{"parts": 1, "file_name": 1}', headers=site.headers).status_code == 422


UPLOADS = ["/rest/storage/auth/token", "/cdn/files/upload", "/cdn/files/upload/multipart", "/rest/storage/upload/initiate"]


@pytest.mark.parametrize("path", [*UPLOADS, "/rest/storage/upload/initiate-multipart"])
def test_uploads_need_a_key(client: httpx.Client, path: str) -> None:
    for wrong in (
        {},
        key("unknown"),
        {"Authorization": "Key"},
        {"Authorization": SECRET},
        {"Authorization": f"Basic {SECRET}"},
    ):
        assert client.post(path, json={}, headers=wrong).status_code == 401


def test_upload_tokens(site: Running, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    told = client.post("/rest/storage/auth/token", headers=site.headers).json()
    assert (told["token_type"], told["base_url"]) == ("Bearer", f"{site.url}/cdn")
    name, expires, signature = told["token"].split(".")

    def code(token: str, scheme: str = "Bearer") -> int:
        return client.post("/cdn/files/upload", content=b"x", headers={"Authorization": f"{scheme} {token}"}).status_code

    assert code(told["token"]) == 200
    assert code(told["token"], "Key") == 401, "a token is no key"
    later = int(expires) + 10**6
    forged = [f"other.{expires}.{signature}", f"{name}.{later}.{signature}", f"{name}.{expires}.{signature[::-1]}"]
    for each in (*forged, f"{name}.{expires}.", f"{name}..{signature}", f"{name}.{signature}", signature, "..", f"{name}.x.y"):
        assert code(each) == 401, each
    ahead = SimpleNamespace(time=lambda: float(expires) - 1, monotonic=time.monotonic)
    monkeypatch.setattr("latentsync_ray.serve.keys.time", ahead)
    assert code(told["token"]) == 200
    ahead.time = lambda: float(expires) + 1
    assert code(told["token"]) == 401, "expired"
