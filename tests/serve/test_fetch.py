"""What strangers may point at, and the tricks by which one makes a server fetch what it should not, or for ever."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpcore2
import pytest
from make_clips import speech_like, write_speech
from serve_tricks import POINTERS, PRIVATE, Answer, Scripted, changing, drip, late, redirect, reply, scripted

from latentsync_ray.errors import ClipError, StorageUnavailable, UnreadableAudio, UnreadableVideo
from latentsync_ray.media.source import open_media, probe_audio, probe_video
from latentsync_ray.serve.fetch import FetchError, Guard, fetch, is_public, post, usable_url
from latentsync_ray.serve.settings import Network

PUBLIC = "93.184.216.34"
HERE = Network(allow=("127.0.0.1/32",), read_seconds=30, total_seconds=60, redirects=3)
"""Reaches the test's server, and no other address of this machine."""
CHUNKED = reply(length=-1, headers={"Transfer-Encoding": "chunked"})


@pytest.fixture
def site() -> Iterator[Scripted]:
    with scripted() as server:
        yield server


@pytest.fixture
def forbidden() -> Iterator[Scripted]:
    """A server that ``HERE`` does not allow: nobody may ask it anything."""
    with scripted("127.0.0.2") as server:
        yield server
    assert server.asked == []


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were dialled; none answers."""
    called: list[str] = []

    def connect(_: Any, host: str, port: int, **__: Any) -> Any:
        called.append(host)
        raise httpcore2.ConnectError(f"port {port} is closed")

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)
    return called


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Sets what ``changing.example`` resolves to, one answer (of several addresses) after the other; returns who asked."""
    return partial(changing, monkeypatch)


def get(url: str, folder: Path, *, network: Network = HERE, max_bytes: int = 100_000) -> bytes:
    """What ``fetch`` writes for ``url``."""
    target = folder / "fetched"
    fetch(url, target, network=network, max_bytes=max_bytes)
    return target.read_bytes()


def test_a_resolver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, dialled: list[str], tmp_path: Path) -> None:
    ended, answered = threading.Event(), []
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: answered.append(ended.wait(60)))
    with pytest.raises(FetchError, match="nobody says where the host 'slow"):
        get("http://slow.example/v.mp4", tmp_path, network=Network(connect_seconds=0.3))
    assert answered == dialled == []
    ended.set()


def test_a_full_disk_is_no_fault_of_the_url(site: Scripted) -> None:
    site.answers["/v.mp4"] = reply(b"x" * 100_000)
    for url in (f"http://127.0.0.1:{site.port}/v.mp4", "data:video/mp4;base64,AAAA"):
        with pytest.raises(StorageUnavailable, match="is full"):
            fetch(url, Path("/dev/full"), network=HERE, max_bytes=10**6)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("file:///etc/passwd", "scheme 'file'", id="file"),
        pytest.param("FILE:///etc/passwd", "scheme 'FILE'", id="file-in-capitals"),
        pytest.param("ftp://a.example/v.mp4", "scheme 'ftp'", id="ftp"),
        pytest.param("gopher://a.example/_GET", "scheme 'gopher'", id="gopher"),
        pytest.param("s3://bucket/v.mp4", "scheme 's3'", id="s3"),
        pytest.param("javascript:alert(1)", "scheme 'javascript'", id="javascript"),
        pytest.param("token:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "scheme 'token'", id="our-own-scheme"),
        pytest.param("x" * 5000 + "://a.example/", "scheme 'xxx", id="endless-scheme"),
        pytest.param("a.example/v.mp4", "no scheme", id="no-scheme"),
        pytest.param("//a.example/v.mp4", "no scheme", id="scheme-relative"),
        pytest.param("", "no scheme", id="nothing"),
        pytest.param("http:///v.mp4", "no host", id="no-host"),
        pytest.param("http://:80/v.mp4", "no host", id="only-a-port"),
        pytest.param("http://[::1/v.mp4", "not a URL", id="open-bracket"),
        pytest.param("http://a.example/" + "v" * 9000, "9017 characters", id="endless-path"),
        pytest.param("http://a.example:99999/", "not a URL", id="port-too-large"),
        pytest.param("http://a.example:" + "9" * 5000, "not a URL", id="endless-port"),
        pytest.param("http://me:secret@a.example/", "names and passwords", id="user-and-password"),
        pytest.param("http://a.example@127.0.0.1/", "names and passwords", id="host-as-user"),
        pytest.param("http://@127.0.0.1/", "names and passwords", id="empty-user"),
        pytest.param("http://a.example\\@127.0.0.1/", "", id="backslash-before-at"),
        pytest.param("http://a.example\\.b.example/", "backslash", id="backslash"),
        pytest.param("http://a.example/\r\nX-Evil: 1", "control character", id="header-injection"),
        pytest.param("http://a.exam\tple/", "control character", id="tab"),
        pytest.param("http://a.example/\x00.mp4", "control character", id="nul"),
        pytest.param("http://127\u30020\u30020\u30021/", "", id="ideographic-full-stops"),
        pytest.param("http://\uff11\uff12\uff17.0.0.1/", "", id="full-width-digits"),
        pytest.param("http://b\u00fccher.example/", "host", id="host-beyond-ascii"),
        pytest.param("http://a.example/\ud800", "", id="half-a-character"),
        pytest.param("DATA:,abc", "scheme 'DATA'", id="data-in-capitals"),
        pytest.param(" data:,abc", "space", id="data-after-a-space"),
        pytest.param("data:audio/wav;base64", "comma", id="data-without-comma"),
    ],
)
def test_urls_that_are_never_tried(url: str, reason: str, tmp_path: Path, dialled: list[str]) -> None:
    problem = usable_url(url)
    assert problem
    assert reason in problem
    assert len(problem) < 200, "it is shown and logged"
    with pytest.raises(FetchError) as refused:
        get(url, tmp_path, network=Network())
    assert str(refused.value) == problem
    assert dialled == []


@pytest.mark.parametrize("host", PRIVATE)
def test_addresses_that_are_not_public(host: str, tmp_path: Path, dialled: list[str]) -> None:
    with pytest.raises(FetchError, match="not on the public internet"):
        get(f"http://{host}:8000/v.mp4", tmp_path, network=Network())
    with pytest.raises(FetchError, match="not on the public internet"):
        post(f"http://{host}:8000/hook", b"{}", {}, network=Network(), timeout=5)
    assert dialled == []


@pytest.mark.parametrize(
    "address", [PUBLIC, "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:808:808", "64:ff9b::808:808"]
)
def test_addresses_that_are_public(address: str, dialled: list[str]) -> None:
    assert is_public(ip_address(address))
    with pytest.raises(httpcore2.ConnectError):
        Guard(Network(), time.monotonic() + 5).connect_tcp(address, 80)
    assert dialled == [address]


@pytest.mark.parametrize("addresses", [(PUBLIC, "10.0.0.1"), ("10.0.0.1", PUBLIC), (PUBLIC, "::1")], ids="-and-".join)
def test_a_name_with_a_private_address_too(addresses: tuple[str, ...], tmp_path: Path, names: Any, dialled: list[str]) -> None:
    names(addresses)
    with pytest.raises(FetchError, match="not on the public internet"):
        get("http://changing.example/", tmp_path, network=Network())
    assert dialled == []


def test_a_name_that_changes_between_check_and_dial(tmp_path: Path, names: Any, dialled: list[str]) -> None:
    asked = names((PUBLIC,), ("127.0.0.1",))
    with pytest.raises(FetchError, match="closed"):
        get("http://changing.example/", tmp_path, network=Network())
    assert dialled == [PUBLIC], "the address that was checked"
    assert asked == ["changing.example"]


def test_a_name_that_changes_before_a_redirect(tmp_path: Path, names: Any, site: Scripted) -> None:
    asked = names(("127.0.0.1",), ("127.0.0.2",))
    site.answers["/"] = redirect("/again")
    with pytest.raises(FetchError, match="not on the public internet"):
        get(f"http://changing.example:{site.port}/", tmp_path)
    assert (len(asked), site.asked) == (2, ["/"])


@pytest.mark.parametrize("host", ["nobody.invalid", "a..example", "a" * 64 + ".example", "a%00.example"])
def test_names_without_an_address(host: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="has no address"):
        get(f"http://{host}/", tmp_path, network=Network())


def test_ports(tmp_path: Path, site: Scripted, dialled: list[str]) -> None:
    web = Network(allow=HERE.allow, ports=(80, 443))
    with pytest.raises(FetchError, match=f"port {site.port} is not allowed"):
        get(site.url, tmp_path, network=web)
    assert dialled == []
    with pytest.raises(FetchError, match="port 80 is closed"):
        get("http://127.0.0.1/", tmp_path, network=web)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        pytest.param("http://127.0.0.2:PORT/secret", "not on the public internet", id="private"),
        pytest.param("//127.0.0.2:PORT/secret", "not on the public internet", id="private-without-scheme"),
        pytest.param("http://[::ffff:127.0.0.2]:PORT/secret", "not on the public internet", id="private-in-ipv6"),
        pytest.param("http://me@127.0.0.1/", "names and passwords", id="user"),
        pytest.param("file:///etc/passwd", "scheme 'file'", id="file"),
        pytest.param("data:text/plain,the-content", "data:", id="data"),
        pytest.param("DATA:text/plain,the-content", "scheme 'DATA'", id="data-in-capitals"),
        pytest.param("http://[", "not a URL", id="open-bracket"),
        pytest.param("http://b\u00fccher.example/", "host", id="host-beyond-ascii"),
        pytest.param("/loop", "more than 3 times", id="loop"),
        pytest.param("/1", "more than 3 times", id="long-chain"),
    ],
)
def test_redirects_that_end_badly(location: str, reason: str, tmp_path: Path, site: Scripted, forbidden: Scripted) -> None:
    steps = {f"/{step}": redirect(f"/{step + 1}") for step in range(1, 4)}
    site.answers |= {"/loop": redirect("/loop"), **steps, "/3": redirect("/good"), "/good": reply(b"one too far")}
    site.answers["/"] = redirect(location.replace("PORT", str(forbidden.port)))
    with pytest.raises(FetchError, match=reason) as refused:
        get(f"{site.url}/", tmp_path)
    assert "the-content" not in str(refused.value)
    assert not (tmp_path / "fetched").exists()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(reply(b"x", length=100_001), "larger than 0.1 MB", id="announced-too-large"),
        pytest.param(reply(b"x" * 100_001, length=-1), "larger than 0.1 MB", id="too-large-and-not-announced"),
        pytest.param(CHUNKED + b"186a1\r\n" + b"x" * 100_001, "larger than 0.1 MB", id="one-large-chunk"),
        pytest.param(drip(CHUNKED, b"3e8\r\n" + b"x" * 1000 + b"\r\n"), "larger than 0.1 MB", id="endless"),
        pytest.param(reply(b"x" * 50, length=100), "connection failed", id="cut-off"),
        pytest.param(CHUNKED + b"a\r\nxxx", "connection failed", id="cut-off-in-a-chunk"),
        pytest.param(b"", "connection failed", id="hung-up"),
        pytest.param(b"\x00\x01not HTTP at all\r\n\r\n", "connection failed", id="not-http"),
        pytest.param(reply(b"x", length=1, headers={"Content-length": "-1"}), "connection failed", id="negative-length"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\n", b"X-More: 1\r\n"), "connection failed", id="endless-headers"),
        pytest.param(reply(b"x", headers={"Content-Encoding": "gzip"}), "compressed", id="compressed"),
        pytest.param(reply(), "sent nothing", id="empty"),
        pytest.param(reply(b"x", status="404 Not Found"), "answered 404", id="missing"),
        pytest.param(reply(b"x", status="500 Oops"), "answered 500", id="broken"),
        pytest.param(reply(b"x", status="302 Found"), "answered 302", id="redirect-to-nowhere"),
        pytest.param(
            reply(length=-1, status="101 Switching Protocols"), "answered 101|connection failed", id="another-protocol"
        ),
    ],
)
def test_answers_that_are_refused(answer: Answer, reason: str, tmp_path: Path, site: Scripted) -> None:
    site.answers["/v"] = answer
    with pytest.raises(FetchError, match=reason):
        get(f"{site.url}/v", tmp_path)
    assert site.asked == ["/v"]


@pytest.mark.parametrize(
    ("answer", "network"),
    [
        pytest.param(drip(reply(length=1000), b"x", pause=0.2), {"total_seconds": 1}, id="body-drips"),
        pytest.param(drip(CHUNKED, b"1\r\nx\r\n", pause=0.2), {"total_seconds": 1}, id="chunks-drip"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x", pause=0.2), {"total_seconds": 1}, id="headers-drip"),
        pytest.param(drip(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", pause=0.2), {"total_seconds": 1}, id="hints-drip"),
        pytest.param(late(b""), {"read_seconds": 1}, id="silence"),
        pytest.param(late(reply(b"x", length=9)), {"read_seconds": 1}, id="silence-within-the-body"),
    ],
)
def test_answers_that_take_too_long(answer: Answer, network: dict[str, Any], tmp_path: Path, site: Scripted) -> None:
    site.answers["/v"] = answer
    began = time.monotonic()
    with pytest.raises(FetchError, match="silent or slow"):
        get(f"{site.url}/v", tmp_path, network=HERE.model_copy(update=network))
    assert 0.9 < time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("," + "secret" * 20_000, "larger than 0.1 MB", id="oversize"),
        pytest.param("," + "secret" * 17_000, "larger than 0.1 MB", id="oversize-by-little"),
        pytest.param(";base64," + "c2Vj" * 33_334, "larger than 0.1 MB", id="oversize-base64"),
        pytest.param("audio/wav;base64,secret!", "not valid base64", id="broken-base64"),
        pytest.param("audio/wav;base64,secre", "not valid base64", id="base64-cut-off"),
        pytest.param(",", "holds nothing", id="empty"),
        pytest.param("audio/secret", "comma", id="without-content"),
        pytest.param(",secret\ud800", "ASCII", id="half-a-character"),
        pytest.param("//a:secret,x", "no host", id="like-an-address"),
    ],
)
def test_inline_inputs_that_are_refused(content: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=reason) as refused:
        get(f"data:{content}", tmp_path, network=Network())
    assert "secr" not in str(refused.value)
    assert "c2Vj" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(",plain%20text%00", b"plain text\x00", id="percent"),
        pytest.param("audio/wav;x=y;base64," + base64.b64encode(bytes(range(256))).decode(), bytes(range(256)), id="base64"),
        pytest.param(";BASE64,%41%41%3D%3d", b"\x00", id="base64-in-percent"),
        pytest.param(";base64," + base64.b64encode(b"x" * 100_000).decode(), b"x" * 100_000, id="as-large-as-allowed"),
        pytest.param("," + "%41" * 100_000, b"A" * 100_000, id="as-large-as-allowed-in-percent"),
    ],
)
def test_inline_inputs(content: str, expected: bytes, tmp_path: Path) -> None:
    assert get(f"data:{content}", tmp_path, network=Network()) == expected


LONG = bytes(range(256)) * 390


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(reply(LONG), id="length"),
        pytest.param(reply(LONG, length=-1), id="until-closed"),
        pytest.param(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(LONG), LONG), id="chunked"),
        pytest.param(reply(LONG, headers={"Content-Encoding": "identity"}), id="not-compressed"),
    ],
)
@pytest.mark.parametrize("path", ["/v.mp4", "/vid\u00e9o.mp4?a=\u00fc", "/a%20b?c=%2f"])
def test_bytes_arrive_as_they_are(answer: bytes, path: str, tmp_path: Path, site: Scripted) -> None:
    sent = path.replace("\u00e9", "%C3%A9").replace("\u00fc", "%C3%BC")
    site.answers = {"/moved": redirect(path), sent: answer}
    assert get(site.url + path, tmp_path) == LONG
    assert get(f"{site.url}/moved", tmp_path) == LONG


def test_a_caller_may_stop_it(tmp_path: Path, site: Scripted) -> None:
    site.answers["/v"] = drip(CHUNKED, b"3e8\r\n" + b"x" * 1000 + b"\r\n", pause=0.01)
    seen: list[int] = []

    def tick(size: int) -> None:
        seen.append(size)
        if size > 3000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(f"{site.url}/v", tmp_path / "v", network=HERE, max_bytes=100_000, tick=tick)
    assert 3000 < seen[-1] < 90_000


@pytest.mark.parametrize("suffix", [".mp4", ".wav", ""])
@pytest.mark.parametrize("kind", POINTERS)
def test_files_that_point_elsewhere(kind: str, suffix: str, tmp_path: Path, site: Scripted) -> None:
    speech = write_speech(tmp_path / "speech.wav", speech_like(0.3))
    text = POINTERS[kind].replace("URL", f"{site.url}/secret.ts").replace("FILE", speech.name).replace("PORT", str(site.port))
    site.answers |= {"/input": reply(text.encode()), "/secret.ts": reply(speech.read_bytes())}
    target = tmp_path / f"input{suffix}"
    fetch(f"{site.url}/input", target, network=HERE, max_bytes=10_000)
    assert target.read_text() == text
    with pytest.raises(UnreadableVideo, match="cannot be opened"):
        probe_video(target, max_pixels=1 << 20, max_seconds=60)
    with pytest.raises(UnreadableAudio, match="cannot be opened"):
        probe_audio(target)
    for source in (target, target.read_bytes()):
        with pytest.raises(ClipError), open_media(source, ClipError):
            pass
    assert site.asked == ["/input"], "nothing that it points at"


def test_posting(site: Scripted, forbidden: Scripted) -> None:
    send = partial(post, body=b"{}", headers={"Content-Type": "application/json"}, network=HERE)
    site.answers = {"/good": reply(), "/moved": redirect(f"{forbidden.url}/"), "/here": redirect("/good")}
    site.answers["/slow"] = drip(b"HTTP/1.1 200 OK\r\n", b"X-More: 1\r\n", pause=0.2)
    assert [send(f"{site.url}/{path}", timeout=60) for path in ("good", "bad", "moved", "here")] == [200, 404, 302, 302]
    assert site.asked == ["/good", "/bad", "/moved", "/here"], "redirects are not followed"
    with pytest.raises(FetchError, match="connection failed"):
        send(f"{site.url}/slow", timeout=1)
    with pytest.raises(FetchError, match="not on the public internet"):
        send(f"{forbidden.url}/", timeout=1)
    for url in ("data:,x", "DATA:,x", "file:///etc/passwd", "ftp://a.example/", "http://me@127.0.0.1/"):
        with pytest.raises(FetchError):
            send(url, timeout=1)
