"""Whether a file carries Content Credentials (C2PA): a signed account of where it comes from, which a dub does not inherit.

Reads the headers of boxes, chunks and tags only, and a bounded number of them. Knows where the manifest store is embedded in
MP4 and MOV, WAV and AVI, and MP3 (C2PA technical specification 2.2, appendix A); verifies nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

__all__ = ["container", "has_credentials"]

_UUID = bytes.fromhex("D8FEC3D61B0E483C92975828877EC481")
_TYPES = (b"application/x-c2pa-manifest-store", b"application/c2pa")
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid")
"""Types of boxes that a file may begin with."""
_PICTURES = {b"\x89PN": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_MOST = 4096
"""Boxes or frames that are looked at: the manifest store comes before the media data, or at the end of a file of few chunks."""


def container(path: Path) -> str | None:
    """The media type of a file that can embed credentials, by its first bytes; None for others."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] in (b"RIFF", b"RF64"):
        return {b"WAVE": "audio/wav", b"AVI ": "video/avi"}.get(head[8:])
    if head[:3] == b"ID3":
        return "audio/mpeg"
    if head[4:8] not in _BOXES:
        return _PICTURES.get(head[:3])
    return {b"M4A ": "audio/mp4", b"qt  ": "video/quicktime"}.get(head[8:], "video/mp4")


def has_credentials(path: Path) -> bool:
    """Whether ``path`` embeds a C2PA manifest store. A damaged file has none as far as it can be followed."""
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[:4] in (b"RIFF", b"RF64"):
            return _in_riff(file)
        if head[:3] == b"ID3":
            return _in_id3(file)
        return head[4:8] in _BOXES and _in_boxes(file)


def _in_boxes(file: BinaryIO) -> bool:
    """ISO/IEC 14496-12, 4.2: a top-level box ``uuid`` of that type."""
    at = 0
    for _ in range(_MOST):
        file.seek(at)
        header = file.read(32)
        size, body = int.from_bytes(header[:4]), 8
        if size == 1:
            size, body = int.from_bytes(header[8:16]), 16
        if header[4:8] == b"uuid" and header[body : body + 16] == _UUID:
            return True
        if size < body:  # 0: to the end of the file
            return False
        at += size
    return False


def _in_riff(file: BinaryIO) -> bool:
    at, wide = 12, 0
    for _ in range(_MOST):
        file.seek(at)
        header = file.read(24)
        if header[:4] == b"C2PA":
            return True
        if len(header) < 8:
            return False
        size = int.from_bytes(header[4:8], "little")
        if header[:4] == b"ds64":  # EBU Tech 3306: the size of a data chunk of more than 4 GB
            wide = int.from_bytes(header[16:24], "little")
        if header[:4] == b"data" and size == 0xFFFFFFFF:
            size = wide
        at += 8 + size + size % 2
    return False


def _in_id3(file: BinaryIO) -> bool:
    """ID3v2: a frame GEOB (GEO in version 2.2) of one of the media types."""
    header = file.read(10)
    if len(header) < 10:
        return False
    version, flags, end = header[3], header[5], 10 + _synchsafe(header[6:10])
    at = 10
    if flags & 0x40 and version > 2:
        size = file.read(4)
        at += _synchsafe(size) if version == 4 else 4 + int.from_bytes(size)
    name, fixed = (3, 6) if version == 2 else (4, 10)
    for _ in range(_MOST):
        file.seek(at)
        frame = file.read(fixed + 64)
        if at + fixed > end or len(frame) < fixed or not frame[0]:
            return False
        size = _synchsafe(frame[4:8]) if version == 4 else int.from_bytes(frame[name : 2 * name])
        if frame[:name] in (b"GEOB", b"GEO") and any(frame[fixed + 1 :].startswith(kind + b"\0") for kind in _TYPES):
            return True
        at += fixed + size
    return False


def _synchsafe(data: bytes) -> int:
    return sum(byte << 7 * place for place, byte in enumerate(reversed(data)))
