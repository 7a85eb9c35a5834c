from __future__ import annotations

import errno
import http.server
import os
import re
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from latentsync_ray import filesystems, retry, storage
from latentsync_ray.errors import ConfigError, InputNotFound, StorageUnavailable
from latentsync_ray.layout import join


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LATENTSYNC_RAY_CACHE", str(folder))
    monkeypatch.setattr(retry._RETRYING, "sleep", lambda seconds: None)
    return folder


@pytest.fixture
def memory():
    return fsspec.filesystem("memory")


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path) -> str:
    """A folder on disk, and one in an object store."""
    if request.param == "local":
        return str(tmp_path)
    request.getfixturevalue("memory")
    return "memory://bucket/job"


class _Site(http.server.ThreadingHTTPServer):
    """Serves ``content``; ``replies`` holds the status codes of the next requests, then 200."""

    content, replies, requests, cut = b"0123456789", [], 0, False
    paths: list[str]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Site

    def do_HEAD(self) -> None:
        self._reply(body=False)

    def do_GET(self) -> None:
        self._reply(body=True)

    def _reply(self, *, body: bool) -> None:
        site = self.server
        site.requests += body
        site.paths.append(self.path)
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", f"/{MOVED}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        status = 404 if "missing" in self.path else site.replies.pop(0) if site.replies else 200
        self.send_response(status)
        content = site.content if status == 200 else b""
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content[:3] if site.cut else content)

    def log_message(self, format: str, *args) -> None:  # noqa: A002
        pass


@pytest.fixture
def site():
    with _Site(("127.0.0.1", 0), _Handler) as server:
        server.replies, server.requests, server.paths = [], 0, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def url(site: _Site, path: str = "clip.mp4") -> str:
    return f"http://127.0.0.1:{site.server_port}/{path}"


def fail_times(monkeypatch, fs, method: str, times: int, error: BaseException) -> list[int]:
    """Let the first calls of a filesystem's method fail; the list counts the calls."""
    calls, original = [], getattr(type(fs), method)

    def flaky(self, *args, **kwargs):
        calls.append(1)
        if len(calls) <= times:
            raise error
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(fs), method, flaky)
    return calls


# Names


@pytest.mark.parametrize(
    ("root", "joined"),
    [
        ("/a/b", "/a/b/x/y"),
        ("/a/b/", "/a/b/x/y"),
        ("/", "/x/y"),
        ("gs://b", "gs://b/x/y"),
        ("memory://", "memory://x/y"),
    ],
)
def test_join(root, joined):
    assert join(root, "x", "y") == joined


@pytest.mark.parametrize(
    ("uri", "remote"),
    [("/a/b", False), ("a", False), ("file:///a", False), ("s3://b/k", True), ("http://h/x", True), ("data:,x", True)],
)
def test_is_remote(uri, remote):
    assert storage.is_remote(uri) is remote


# Everywhere the same


def test_write_read_list_delete(root):
    uri = join(root, "folder", "a.txt")
    assert storage.list_files(join(root, "folder")) == []
    assert not storage.exists(uri)
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"two")
    storage.write_bytes(join(root, "folder", "deeper", "b.txt"), b"")
    assert storage.read_bytes(uri) == b"two"
    assert storage.exists(uri)
    assert storage.list_files(join(root, "folder")) == [uri]
    assert storage.list_files(uri) == []
    storage.delete([uri, uri, join(root, "never")])
    assert storage.list_files(join(root, "folder")) == []
    with pytest.raises(InputNotFound, match=r"a\.txt"):
        storage.read_bytes(uri)


@pytest.mark.parametrize("name", ["a*b?.txt", "[x].txt", "a::b.txt", "ü 漢.txt", "a#b%20c.txt"])
def test_odd_names(tmp_path, name):
    other = join(str(tmp_path), "aXbY.txt")
    uri = join(str(tmp_path), name)
    storage.write_bytes(other, b"other")
    storage.write_bytes(uri, b"this")
    assert storage.list_files(str(tmp_path)) == sorted([other, uri])
    assert storage.fetch(uri).read_bytes() == b"this"
    storage.delete([uri])
    assert storage.list_files(str(tmp_path)) == [other]


def test_a_name_with_a_null_character_is_of_no_file():
    assert storage.seen("/a\0b.mp4") is False
    assert storage.version("/a\0b.mp4") is None
    with pytest.raises(InputNotFound, match="null"):
        storage.fetch("/a\0b.mp4")


def test_magic_characters_in_keys_touch_nothing_else(memory, tmp_path):
    local = tmp_path / "x"
    local.write_bytes(b"star")
    storage.write_bytes("memory://b/abc", b"other")
    storage.publish(local, "memory://b/a*")
    assert storage.read_bytes("memory://b/a*") == b"star"
    storage.delete(["memory://b/a*"])
    assert storage.list_files("memory://b") == ["memory://b/abc"]


def test_publish_replaces_and_leaves_nothing_else(root, tmp_path_factory):
    local = tmp_path_factory.mktemp("source") / "x.mp4"
    uri = join(root, "clips", "x.mp4")
    for content in (b"first", b"second one"):
        local.write_bytes(content)
        storage.publish(local, uri)
        assert storage.read_bytes(uri) == content
    assert storage.list_files(join(root, "clips")) == [uri]
    assert storage.list_files(join(root, "clips", "_work")) == []
    assert local.exists()


def test_a_publish_that_breaks_off_shows_nothing_under_the_final_name(memory, monkeypatch, tmp_path):
    local = tmp_path / "x.mp4"
    local.write_bytes(b"content")
    put = type(memory).put_file

    def half(self, lpath, rpath, **kwargs):
        put(self, lpath, rpath, **kwargs)
        self.pipe_file(rpath, b"cont")

    monkeypatch.setattr(type(memory), "put_file", half)
    with pytest.raises(StorageUnavailable, match="4 of 7 bytes"):
        storage.publish(local, "memory://b/clips/x.mp4")
    assert not storage.exists("memory://b/clips/x.mp4")


def test_a_local_write_that_breaks_off_keeps_the_old_file(monkeypatch, tmp_path):
    uri = str(tmp_path / "x")
    storage.write_bytes(uri, b"old")
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"old"


def test_empty_work_folders_go(tmp_path):
    kept, gone = tmp_path / "_work" / "parts" / "b" / "0.mp4", tmp_path / "_work" / "parts" / "a" / "key" / "0.mp4"
    storage.write_bytes(str(kept), b"")
    storage.write_bytes(str(gone), b"")
    storage.delete([str(gone)])
    assert kept.exists()
    assert not (tmp_path / "_work" / "parts" / "a").exists()
    storage.delete([str(kept)])
    assert (tmp_path / "_work").exists()
    assert list((tmp_path / "_work").iterdir()) == []


# Drafts and full disks

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EFBIG, "File too large"),
]


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Lets a write of any filesystem leave half a file and fail with what it is given; the list counts the calls."""

    def fail(fs, error: BaseException) -> list[int]:
        calls = []

        def half(self, target, content):
            calls.append(1)
            self.pipe_file.__wrapped__(self, target, content[: len(content) // 2])
            raise error

        def pipe(self, path, value, **kwargs):
            half(self, path, value)

        def put(self, lpath, rpath, **kwargs):
            half(self, rpath, Path(lpath).read_bytes())

        original = type(fs).pipe_file
        pipe.__wrapped__ = original  # pyright: ignore[reportFunctionMemberAccess]
        monkeypatch.setattr(type(fs), "pipe_file", pipe)
        monkeypatch.setattr(type(fs), "put_file", put)
        return calls

    return fail


def names(root: str) -> list[str]:
    return [uri.removeprefix(root) for uri in storage.find_files(root)]


def filesystem(root: str):
    return fsspec.filesystem("memory" if "://" in root else "file")


@pytest.mark.parametrize("error", FULL, ids=lambda error: errno.errorcode[error.errno])
def test_a_full_disk_is_told_at_once_and_nothing_stays(root, nowhere, error, tmp_path_factory):
    local = tmp_path_factory.mktemp("source") / "x.mp4"
    local.write_bytes(b"content")
    uri = join(root, "clips", "x.mp4")
    calls = nowhere(filesystem(root), error)
    with pytest.raises(
        StorageUnavailable, match=rf"the disk of .*x\.mp4 is full \({error.strerror}\); free some space"
    ) as caught:
        storage.publish(local, uri, drafts=join(root, "_work", "drafts"))
    assert caught.value.__cause__ is error
    assert len(calls) == 1
    assert names(root) == []
    if "://" not in root:  # an object store has no drafts of its own here: one PUT is whole or nothing
        with pytest.raises(StorageUnavailable, match="is full"):
            storage.write_bytes(uri, b"content")
        assert len(calls) == 2
        assert names(root) == []


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ConnectionResetError(), StorageUnavailable),
        (PermissionError("no"), ConfigError),
        (AttributeError("bug"), AttributeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=repr,
)
def test_no_draft_stays_whatever_happens(root, nowhere, error, raised, tmp_path_factory):
    local = tmp_path_factory.mktemp("source") / "x.mp4"
    local.write_bytes(b"content")
    nowhere(filesystem(root), error)
    with pytest.raises(raised):
        storage.publish(local, join(root, "clips", "x.mp4"), drafts=join(root, "_work", "drafts"))
    if "://" not in root:
        with pytest.raises(raised):
            storage.write_bytes(join(root, "x.json"), b"content")
    assert names(root) == []


def test_a_full_cache_is_told_by_its_folder(memory, monkeypatch, cache_folder):
    memory.pipe_file("/in/a.mp4", b"x" * 1000)

    def half(self, rpath, lpath, **kwargs):
        Path(lpath).write_bytes(b"x" * 500)
        raise FULL[0]

    monkeypatch.setattr(type(memory), "get_file", half)
    with pytest.raises(StorageUnavailable, match=re.escape(f"the disk of {cache_folder} is full")):
        storage.fetch("memory://in/a.mp4")
    assert [path.name for path in cache_folder.iterdir()] == ["locks"]


def test_a_real_disk_that_is_full(tiny_disk, tmp_path, memory, monkeypatch):
    large = tmp_path / "large"
    large.write_bytes(b"x" * 200_000)
    for write in (
        lambda: storage.publish(large, f"{tiny_disk}/clips/x.mp4", drafts=f"{tiny_disk}/_work/drafts"),
        lambda: storage.write_bytes(f"{tiny_disk}/x.json", large.read_bytes()),
    ):
        with pytest.raises(StorageUnavailable, match=r"is full \(No space left on device\)"):
            write()
        assert names(str(tiny_disk)) == []
    memory.pipe_file("/a.mp4", large.read_bytes())
    monkeypatch.setenv("LATENTSYNC_RAY_CACHE", str(tiny_disk / "cache"))
    with pytest.raises(StorageUnavailable, match=re.escape(f"the disk of {tiny_disk}/cache is full")):
        storage.fetch("memory://a.mp4")
    assert names(f"{tiny_disk}/cache") in ([], [f"/locks/{next((tiny_disk / 'cache' / 'locks').iterdir()).name}"])


# Fetching


def test_local_files_are_used_in_place(tmp_path, cache_folder):
    (tmp_path / "a.mp4").write_bytes(b"x")
    assert storage.fetch(str(tmp_path / "a.mp4")) == tmp_path / "a.mp4"
    assert storage.fetch(f"file://{tmp_path}/a.mp4") == tmp_path / "a.mp4"
    assert not list(cache_folder.iterdir())


def test_local_files_that_cannot_be_used(tmp_path, monkeypatch):
    for bad, why in [(tmp_path / "none.mp4", "does not exist"), (tmp_path, "folder"), (tmp_path / ("x" * 300), "too long")]:
        with pytest.raises(InputNotFound, match=why) as caught:
            storage.fetch(str(bad))
        assert str(bad)[:200] in str(caught.value)
    with pytest.raises(InputNotFound):
        storage.fetch("a\0b")
    (tmp_path / "locked").write_bytes(b"")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputNotFound, match="permissions"):
        storage.fetch(str(tmp_path / "locked"))


def test_remote_files_are_downloaded_once_and_again_when_they_change(memory, monkeypatch):
    calls = fail_times(monkeypatch, memory, "get_file", 0, OSError())
    memory.pipe_file("/in/a.mp4", b"one")
    first = storage.fetch("memory://in/a.mp4")
    assert (first.read_bytes(), first.suffix) == (b"one", ".mp4")
    assert storage.fetch("memory://in/a.mp4") == first
    assert len(calls) == 1
    memory.pipe_file("/in/a.mp4", b"two")
    assert storage.fetch("memory://in/a.mp4").read_bytes() == b"two"


def test_a_download_keeps_the_ending_of_its_name(memory):
    memory.pipe_file("/in/unet.safetensors", b"weights")
    assert storage.fetch("memory://in/unet.safetensors").suffix == ".safetensors", "which says what it is"


def test_two_that_want_the_same_file_share_one_download(memory, monkeypatch):
    memory.pipe_file("/a", b"x" * 1000)
    get_file, calls = type(memory).get_file, []

    def slow(self, *args, **kwargs):
        calls.append(1)
        time.sleep(0.2)
        return get_file(self, *args, **kwargs)

    monkeypatch.setattr(type(memory), "get_file", slow)
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(storage.fetch, ["memory://a"] * 4))
    assert len(paths) == len(calls) == 1


def test_data_uris():
    assert storage.fetch("data:audio/wav;base64,aGVsbG8=").read_bytes() == b"hello"
    for bad in ("data:audio/wav;base64,aGVsbG8", "data:nothing"):
        with pytest.raises(InputNotFound):
            storage.fetch(bad)
    with pytest.raises(InputNotFound) as caught:
        storage.fetch("data:no comma" + "A" * 10_000)
    assert len(str(caught.value)) < 1000


def test_http(site):
    assert storage.fetch(url(site)).read_bytes() == site.content
    storage.fetch(url(site))
    assert site.requests == 1
    with pytest.raises(InputNotFound, match=r"missing\.mp4"):
        storage.fetch(url(site, "missing.mp4"))


MOVED = "over%2Fthere.mp4?policy=a%2Fb%3D&token=x+y%20z~"
"""Signed, with characters that an address need not encode."""


def test_signed_addresses_go_out_as_they_are(site):
    signed = "a%2Fb c.mp4".replace(" ", "%20") + "?X-Amz-Credential=K%2F2026%2Fs3&X-Amz-Signature=a%2Bb%3D+c"
    assert storage.fetch(url(site, signed)).read_bytes() == site.content
    assert set(site.paths) == {f"/{signed}"}


def test_a_redirect_is_followed_as_it_is(site):
    assert storage.fetch(url(site, "moved.mp4?X-Amz-Signature=a%2Fb")).read_bytes() == site.content
    assert set(site.paths) == {"/moved.mp4?X-Amz-Signature=a%2Fb", f"/{MOVED}"}


def test_an_address_that_is_none_yet_is_encoded(site):
    assert storage.fetch(url(site, "a b\u00fc 100%.mp4")).read_bytes() == site.content
    assert set(site.paths) == {"/a%20b%C3%BC%20100%25.mp4"}


def test_http_recovers_from_passing_failures(site):
    site.replies = [503, 503, 200, 429, 500]  # the look-up asks twice (HEAD, GET), then the download
    assert storage.fetch(url(site)).read_bytes() == site.content


def test_http_that_keeps_failing(site):
    site.replies = [503] * 1000
    with pytest.raises(StorageUnavailable, match=r"failed \d+ times") as caught:
        storage.fetch(url(site))
    assert f"failed {(1000 - len(site.replies)) // 2} times" in str(caught.value)


def test_http_denied_is_not_retried(site):
    site.replies = [403] * 50
    with pytest.raises(InputNotFound, match="may not be read"):
        storage.fetch(url(site))
    assert len(site.replies) == 48


def test_a_download_cut_short_is_not_kept(site, cache_folder):
    site.cut = True
    with pytest.raises(StorageUnavailable):
        storage.fetch(url(site))
    assert [path.name for path in cache_folder.iterdir()] == ["locks"]


def test_nobody_listens():
    with pytest.raises(StorageUnavailable, match=r"127\.0\.0\.1:9"):
        storage.fetch("http://127.0.0.1:9/a.mp4")


# Secrets

SIGNED = "?versionId=7&X-Amz-Signature=SECRET1&X-Amz-Security-Token=SECRET2"


def test_no_error_shows_a_secret(site):
    host = f"127.0.0.1:{site.server_port}"
    for uri, kind in [
        (f"http://me:SECRET0@{host}/missing.mp4{SIGNED}", InputNotFound),
        (f"http://me:SECRET0@127.0.0.1:9/a.mp4{SIGNED}", StorageUnavailable),
        (f"http://me:SEC/RET@{host}/missing.mp4{SIGNED}", InputNotFound),
        (f"http://{host}/missing clip.mp4?name=SECRET0 it's{SIGNED}#SECRET3", InputNotFound),
        (f"nosuch://me:SECRET0@host/a.mp4{SIGNED}", InputNotFound),
    ]:
        with pytest.raises(kind) as caught:
            storage.fetch(uri)
        printed = "".join(traceback.format_exception(caught.value))
        assert "SECRET" not in printed, printed
        assert "RET@" not in printed, printed


def test_a_refusal_shows_which_object_it_is_about(site):
    site.replies = [403] * 50
    with pytest.raises(InputNotFound, match=r"clip\.mp4\?versionId=7&\*\*\* does not exist or may not be read"):
        storage.fetch(url(site, f"clip.mp4{SIGNED}"))


# Errors


@pytest.mark.parametrize("error", [TimeoutError("slow"), ConnectionResetError(), OSError(errno.EBUSY, "slow down")])
def test_passing_errors_are_retried(memory, monkeypatch, error):
    memory.pipe_file("/a", b"x")
    calls = fail_times(monkeypatch, memory, "cat_file", 3, error)
    assert storage.read_bytes("memory://a") == b"x"
    assert len(calls) == 4
    calls = fail_times(monkeypatch, memory, "cat_file", 999, error)
    with pytest.raises(StorageUnavailable, match="memory://a") as caught:
        storage.read_bytes("memory://a")
    assert f"failed {len(calls)} times" in str(caught.value)
    assert caught.value.__cause__ is error


def test_retries_go_on_for_two_minutes(memory, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(retry._RETRYING, "sleep", waits.append)
    fail_times(monkeypatch, memory, "cat_file", 999, ConnectionResetError())
    with pytest.raises(StorageUnavailable):
        storage.read_bytes("memory://a")
    assert 120 <= sum(waits) <= 135
    assert max(waits) <= 15


def test_a_dead_web_site_is_not_waited_for(monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(retry._RETRYING, "sleep", waits.append)
    with pytest.raises(StorageUnavailable, match="failed 5 times"):
        storage.fetch("http://127.0.0.1:9/a.mp4")
    assert len(waits) == 4
    assert sum(waits) < 10


def test_attempts_that_take_long_are_made_five_times(memory, monkeypatch):
    monkeypatch.setattr(retry, "_PATIENCE", 0.0)
    calls = fail_times(monkeypatch, memory, "cat_file", 999, ConnectionResetError())
    with pytest.raises(StorageUnavailable, match="failed 5 times"):
        storage.read_bytes("memory://a")
    assert len(calls) == 5


@pytest.mark.parametrize("error", [PermissionError("denied"), OSError("Forbidden: a"), OSError(errno.EINVAL, "bad bucket")])
def test_lasting_errors_are_not_retried(memory, monkeypatch, error):
    memory.pipe_file("/a", b"x")
    for method in ("cat_file", "pipe_file", "ls"):
        calls = fail_times(monkeypatch, memory, method, 99, error)
        with pytest.raises(ConfigError if method == "pipe_file" else InputNotFound, match="memory://a"):
            {
                "cat_file": storage.read_bytes,
                "pipe_file": lambda uri: storage.write_bytes(uri, b""),
                "ls": storage.list_files,  # an empty list would make every clip look unfinished
            }[method]("memory://a")
        assert len(calls) == 1


def test_other_errors_are_bugs_and_pass_through(memory, monkeypatch):
    calls = fail_times(monkeypatch, memory, "cat_file", 99, AttributeError("bug"))
    with pytest.raises(AttributeError, match="bug"):
        storage.read_bytes("memory://a")
    assert len(calls) == 1


def test_errors_of_cloud_libraries():
    """Look-alikes, so that it is also tested where these are not installed."""
    unreachable = type("EndpointConnectionError", (Exception,), {"__module__": "botocore.exceptions"})
    answer = type(
        "ClientError", (Exception,), {"__module__": "botocore.exceptions", "response": {"Error": {"Code": "NoSuchKey"}}}
    )
    gcs = type("HttpError", (Exception,), {"__module__": "gcsfs.retry"})
    missing, busy = FileNotFoundError("no such key"), OSError(errno.EBUSY, "slow down")
    missing.__cause__ = busy.__cause__ = answer()  # as s3fs raises them
    denied, unavailable = gcs(), gcs()
    denied.code, unavailable.code = 403, 503  # pyright: ignore[reportAttributeAccessIssue]
    told = {error: retry.told_as(error) for error in (unreachable(), missing, busy, denied, unavailable)}
    assert list(told.values()) == [StorageUnavailable, InputNotFound, StorageUnavailable, InputNotFound, StorageUnavailable]
    mistaken = type("ProfileNotFound", (Exception,), {"__module__": "botocore.exceptions"})
    assert retry.told_as(mistaken()) is InputNotFound


def _refusal(code: str, operation: str = "GetObject") -> BaseException:
    said = {"__module__": "botocore.exceptions", "response": {"Error": {"Code": code}}, "operation_name": operation}
    error = PermissionError("refused")
    error.__cause__ = type("ClientError", (Exception,), said)()
    return error


def _unauthorized(message: str) -> BaseException:
    error = type("HttpError", (Exception,), {"__module__": "gcsfs.retry"})(message)
    error.code = 401  # pyright: ignore[reportAttributeAccessIssue]
    return error


@pytest.mark.parametrize(
    ("error", "outdated"),
    [
        (_refusal("ExpiredToken"), True),
        (_refusal("400", "HeadObject"), True),
        (_refusal("400"), False),
        (_refusal("AccessDenied"), False),
        (_unauthorized("Invalid Credentials, 401"), True),
        (_unauthorized("Anonymous caller does not have storage.objects.get access, 401"), False),
        (type("RefreshError", (Exception,), {"__module__": "google.auth.exceptions"})("invalid_grant"), True),
        (FileNotFoundError("none"), False),
        (None, False),
    ],
    ids=str,
)
def test_logins_that_may_be_renewed(error, outdated):
    assert retry.is_outdated(error) is outdated
    assert retry.told_as(error) is (StorageUnavailable if outdated else None if error is None else InputNotFound)


@pytest.mark.parametrize(("protocol", "extra"), [("gs", "gcs"), ("s3", "s3")])
def test_a_missing_filesystem_names_its_extra(monkeypatch, protocol, extra):
    def missing(protocol):
        raise ImportError("not installed")

    monkeypatch.setattr(filesystems, "_kind", missing)
    monkeypatch.setattr(filesystems, "url_to_fs", lambda uri, **options: missing(uri))
    with pytest.raises(ConfigError, match=rf"pip install .*\[{extra}\]'"):
        storage.fetch(f"{protocol}://bucket/a.mp4")


def test_an_unknown_protocol():
    with pytest.raises(InputNotFound, match="nosuch://x"):
        storage.fetch("nosuch://x")


@pytest.mark.parametrize("write", ["publish", "write_bytes"])
def test_a_folder_that_a_neighbour_prunes_is_made_again(write, tmp_path, monkeypatch):
    real, pruned = LocalFileSystem.makedirs, []

    def makedirs(self, path, exist_ok=False):
        real(self, path, exist_ok=exist_ok)
        if len(pruned) < 3:
            pruned.append(path)
            Path(path).rmdir()

    local, drafts = tmp_path / "made.mp4", tmp_path / "out" / "_work" / "drafts"
    local.write_bytes(b"film")
    monkeypatch.setattr(LocalFileSystem, "makedirs", makedirs)
    if write == "publish":
        storage.publish(local, str(tmp_path / "out" / "clips" / "a.mp4"), drafts=str(drafts))
        assert (tmp_path / "out" / "clips" / "a.mp4").read_bytes() == b"film"
    else:
        storage.write_bytes(str(drafts / "a.json"), b"{}")
        assert (drafts / "a.json").read_bytes() == b"{}"
    assert len(pruned) == 3


def test_writers_and_pruners_at_once(tmp_path):
    """Each removes what it wrote, and with it folders that the others are about to write to."""
    out = tmp_path / "out"

    def work(worker: int) -> None:
        local = tmp_path / f"{worker}.mp4"
        local.write_bytes(b"film")
        for number in range(60):
            storage.publish(local, str(out / "clips" / f"{worker}-{number}.mp4"), drafts=str(out / "_work" / "drafts"))
            record = str(out / "_work" / "records" / f"{worker}-{number}.json")
            storage.write_bytes(record, b"{}")
            storage.delete([record])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert len(list((out / "clips").iterdir())) == 6 * 60
    assert not list((out / "_work").rglob("*"))


def test_many_files_are_removed_without_being_listed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_DELETED_AT_ONCE", 3)
    drawn = []

    def uris() -> Iterator[str]:
        for number in range(9):
            (tmp_path / f"{number}").write_text("a")
            drawn.append(sum(1 for _ in tmp_path.iterdir()))
            yield str(tmp_path / f"{number}")

    storage.delete(uris())
    assert max(drawn) <= 4
    assert list(tmp_path.iterdir()) == []


def test_empty_folders_go_below_a_given_one(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/d"):
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / name).write_text("a")
    storage.delete([str(tmp_path / "top/a/b/c")], below=str(tmp_path / "top"))
    assert [path.name for path in (tmp_path / "top" / "a").iterdir()] == ["d"]
    storage.delete([str(tmp_path / "top/a/d")], below=str(tmp_path / "top"))
    assert list((tmp_path / "top").iterdir()) == []


@pytest.mark.parametrize("root", ["memory://sizes", ""])
def test_sizes_of_all_files_below(tmp_path: Path, root: str) -> None:
    root = root or str(tmp_path / "sizes")
    assert storage.file_sizes(root) == {}
    for name in ("b", "a=1/c", "a"):
        storage.write_bytes(f"{root}/{name}", b"x" * len(name))
    assert storage.file_sizes(root) == {f"{root}/a": 1, f"{root}/a=1/c": 5, f"{root}/b": 1}
