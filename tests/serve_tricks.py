"""Servers that do not behave, requests that no well-meaning client sends, and what a folder holds afterwards."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

PRIVATE = (
    # this machine, as people write it
    *("127.0.0.1", "127.1", "127.255.255.254", "0", "0.0.0.0", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1"),
    *("localhost", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]"),
    # within IPv6: mapped, compatible, translated, NAT64 (the last one hides 10.0.0.1), 6to4, Teredo
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[::ffff:0:7f00:1]", "[64:ff9b::7f00:1]"),
    *("[64:ff9b:1::7f00:1]", "[64:ff9b:1:a00:0:100:808:808]", "[2002:7f00:1::]", "[2001:0:53aa:64c:0:0:80ff:fffe]"),
    # networks of one's own, and clouds' metadata
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "[fe80::1]", "[fec0::1]", "[fc00::1]"),
    *("169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "[fd00:ec2::254]"),
    # nobody's: documentation, benchmarks, multicast, reserved, broadcast
    *("192.0.2.1", "203.0.113.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "[2001:db8::1]", "[ff02::1]"),
)
"""Hosts that no stranger may make a server dial."""
NAMES = {
    "parents": ("../../etc/passwd", "passwd"),
    "parents-of-windows": ("..\\..\\x.mp4", "x.mp4"),
    "absolute": ("/etc/cron.d/x", "x"),
    "drive": ("C:\\x.mp4", "x.mp4"),
    "stream-of-a-file": ("x.mp4::$DATA", "x.mp4_DATA"),
    "nul": ("a\x00.mp4", "a_.mp4"),
    "percent-encoded": ("%2e%2e%2fx.mp4", "2e_2e_2fx.mp4"),
    "long": ("x" * 490 + ".mp4", "x" * 96 + ".mp4"),
    "long-with-a-dot-at-the-cut": ("x" * 300 + "." + "y" * 99, "y" * 99),
    "dots": ("....", "file.mp4"),
    "dots-and-slashes": ("../..", "file.mp4"),
    "hidden": (".htaccess", "htaccess"),
    "lines": ("a\r\nX-Evil: 1\r\n\r\n<script>.mp4", "a_X-Evil_1_script_.mp4"),
    "one-line": ("a\nSet-Cookie: a=b.mp4", "a_Set-Cookie_a_b.mp4"),
    "quotes": ('a"; filename="b.html', "a_filename_b.html"),
    "address": ("https://a.example/x.mp4?y=z#w", "x.mp4_y_z_w"),
    "emoji-and-reversed": ("\U0001f600evil\u202e4pm.exe", "evil_4pm.exe"),
    "empty": ("", "file.mp4"),
}
"""What a client calls its video, and what it is shown as."""
POINTERS = {
    "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nURL\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile 'URL'\n",
    "concat-of-files": "ffconcat version 1.0\nfile 'FILE'\n",
    "session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video PORT RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "manifest": '<?xml version="1.0"?><MPD><Period><AdaptationSet mimeType="video/mp4"><BaseURL>URL</BaseURL>'
    "</AdaptationSet></Period></MPD>",
}
"""Texts that media libraries take for media, and then open what they name."""

Answer = bytes | Callable[[threading.Event], Iterator[bytes]]
"""What a connection is sent: all at once, or block by block until the event says that the test is over."""


class Scripted(socketserver.ThreadingTCPServer):
    """Answers each path as it was told to, however wrong that is as HTTP, and then closes the connection."""

    block_on_close = True

    def __init__(self, host: str) -> None:
        super().__init__((host, 0), _Connection)
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        """Paths, in the order of the requests."""
        self.ended = threading.Event()

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.port}"


class _Connection(socketserver.BaseRequestHandler):
    server: Scripted

    def handle(self) -> None:
        asked = b""
        try:
            while b"\r\n\r\n" not in asked:
                block = self.request.recv(1 << 16)
                if not block:
                    return
                asked += block
            path = asked.split(b" ", 2)[1].decode()
            self.server.asked.append(path)
            answer = self.server.answers.get(path, reply(status="404 Not Found"))
            for block in (answer,) if isinstance(answer, bytes) else answer(self.server.ended):
                self.request.sendall(block)
        except ConnectionError:
            pass  # whoever asked has gone, which is what most of these answers are for


@contextmanager
def scripted(host: str = "127.0.0.1") -> Iterator[Scripted]:
    """A server at ``host``; no thread and no socket of it is left behind."""
    with Scripted(host) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()


def reply(
    body: bytes = b"", *, status: str = "200 OK", length: int | None = None, headers: Mapping[str, str] | None = None
) -> bytes:
    """A whole answer; ``length`` is what it claims its body to have, none at all when negative."""
    length = len(body) if length is None else length
    fields = {} if length < 0 else {"Content-Length": str(length)}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in {**fields, **(headers or {})}.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str) -> bytes:
    """An answer that sends whoever asks elsewhere."""
    return reply(status="302 Found", headers={"Location": location})


def drip(start: bytes, block: bytes, *, pause: float = 0.0) -> Answer:
    """``start`` and then ``block`` again and again, with ``pause`` seconds between two and for a minute at most."""

    def blocks(ended: threading.Event) -> Iterator[bytes]:
        yield start
        until = time.monotonic() + 60
        while not ended.wait(pause) and time.monotonic() < until:
            yield block

    return blocks


def late(start: bytes) -> Answer:
    """``start``, and then nothing for as long as the test lasts."""

    def blocks(ended: threading.Event) -> Iterator[bytes]:
        yield start
        ended.wait(60)

    return blocks


def changing(monkeypatch: pytest.MonkeyPatch, *answers: tuple[str, ...]) -> list[str]:
    """Let ``changing.example`` resolve to one answer (of several addresses) after the other: how often it was asked for."""
    system, asked = socket.getaddrinfo, []

    def resolve(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if host != "changing.example":
            return system(host, port, *args, **more)
        asked.append(host)
        addresses = answers[min(len(asked), len(answers)) - 1]
        return [each for address in addresses for each in system(address, port, *args, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def ask_exactly(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a GET whose path is sent letter by letter: clients tidy ``..`` away before they send it."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while block := connection.recv(1 << 16):
            answer += block
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body


def in_blocks(data: bytes, size: int = 100) -> Iterator[bytes]:
    """A body whose length no header announces."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def files_below(folder: Path) -> set[str]:
    """The files of a server, without its database."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name for name in names if "queue.sqlite" not in name}


def token_of(url: str) -> str:
    """The random part of the address of a file."""
    return httpx.URL(url).path.split("/files/", 1)[1].split("/")[0]
