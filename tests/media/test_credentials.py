"""Content Credentials are found where the specification puts them, by reading headers only."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from make_clips import moving, speech_like, write_clip, write_speech

from latentsync_ray.media.credentials import has_credentials

UUID = bytes.fromhex("D8FEC3D61B0E483C92975828877EC481")
STORE = b"\0" * 3 + b"manifest\0" + bytes(500)


def box(kind: bytes, body: bytes, *, wide: bool = False) -> bytes:
    if wide:
        return struct.pack(">I4sQ", 1, kind, len(body) + 16) + body
    return struct.pack(">I4s", len(body) + 8, kind) + body


def frame(version: int, mime: bytes) -> bytes:
    body = b"\0" + mime + b"\0\0\0" + STORE
    if version == 2:
        return b"GEO" + len(body).to_bytes(3) + body
    size = sum((len(body) >> 7 * place & 0x7F) << 8 * place for place in range(4)) if version == 4 else len(body)
    return b"GEOB" + size.to_bytes(4) + b"\0\0" + body


def tag(version: int, frames: bytes) -> bytes:
    size = sum((len(frames) >> 7 * place & 0x7F) << 8 * place for place in range(4))
    return b"ID3" + bytes([version, 0, 0]) + size.to_bytes(4) + frames


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_mp4(tmp_path: Path, name: str, wide: bool) -> None:
    path = write_clip(tmp_path / name, moving(3))
    whole = path.read_bytes()
    assert not has_credentials(path)
    start = struct.unpack(">I", whole[:4])[0]
    path.write_bytes(whole[:start] + box(b"uuid", UUID + STORE, wide=wide) + whole[start:])
    assert has_credentials(path)
    path.write_bytes(whole + box(b"uuid", UUID + STORE))
    assert has_credentials(path)
    path.write_bytes(whole + box(b"uuid", bytes(16) + UUID + STORE))
    assert not has_credentials(path)


def test_wav_and_avi(tmp_path: Path) -> None:
    for path in (write_speech(tmp_path / "a.wav", speech_like(0.1)), write_clip(tmp_path / "a.avi", moving(3))):
        whole = path.read_bytes()
        assert not has_credentials(path)
        path.write_bytes(whole + bytes(len(whole) % 2) + b"C2PA" + struct.pack("<I", len(STORE)) + STORE)
        assert has_credentials(path)


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("mime", [b"application/x-c2pa-manifest-store", b"application/c2pa"])
def test_mp3(tmp_path: Path, version: int, mime: bytes) -> None:
    sound = write_speech(tmp_path / "a.mp3", speech_like(0.2), codec="libmp3lame").read_bytes()
    path = tmp_path / "b.mp3"
    text = {2: b"TT2\0\0\3\0hi", 3: b"TIT2\0\0\0\3\0\0\0hi", 4: b"TIT2\0\0\0\3\0\0\0hi"}[version]
    path.write_bytes(tag(version, text + frame(version, mime)) + sound)
    assert has_credentials(path)
    path.write_bytes(tag(version, text + frame(version, b"image/png") + bytes(50)) + sound)
    assert not has_credentials(path)
    assert not has_credentials(tmp_path / "a.mp3")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ID3",
        b"RIFF",
        b"ID3\4\0\0\x7f\x7f\x7f\x7f" + b"TIT2\0\0\0\0\0\0" * 50_000,
        b"RIFF\0\0\0\0WAVE" + b"junk\0\0\0\0" * 50_000,
        box(b"free", b"") * 50_000,
        box(b"ftyp", b"") + struct.pack(">I4s", 1, b"free") + b"\0" * 8,
        b"OggS" + UUID,
    ],
)
def test_damaged_and_endless_files_have_none_and_take_no_time(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    began = time.process_time()
    assert not has_credentials(path)
    assert time.process_time() - began < 0.5
