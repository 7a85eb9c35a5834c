"""XMP in MP4 files: what a clip says of its own making, where exiftool, FFmpeg and editors look for it.

The packet (ISO 16684-1) has a top-level box of its own, as Adobe's XMP specification, part 3, places it in files of ISO/IEC
14496-12. It goes before the media data, since FFmpeg reads no further.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

import numpy as np

__all__ = ["NAMESPACES", "SOURCE_TYPE", "embed_xmp", "read_xmp", "xmp_packet"]

_UUID = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
NAMESPACES = {
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "latentsync": "https://pypi.org/project/latentsync-ray/ns/1.0/",
}
"""Prefixes of properties."""
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's name for footage of which a trained model has made a part."""
_HEAD, _TAIL = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n', '\n<?xpacket end="r"?>'
_LARGEST = 1 << 24
"""Bytes of a packet that is read."""
_PATH = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_OFFSETS = {b"stco": ">u4", b"co64": ">u8"}
"""Boxes of chunks' places in the file (ISO/IEC 14496-12, 8.7.5), and the type of an entry."""


def xmp_packet(properties: Mapping[str, str]) -> bytes:
    """A packet of simple properties, e.g. ``xmp:CreatorTool``. The same properties in the same order give the same bytes."""
    for prefix, uri in {"x": "adobe:ns:meta/", "rdf": _RDF, **NAMESPACES}.items():
        ElementTree.register_namespace(prefix, uri)
    root = ElementTree.Element("{adobe:ns:meta/}xmpmeta")
    described = ElementTree.SubElement(ElementTree.SubElement(root, f"{{{_RDF}}}RDF"), f"{{{_RDF}}}Description")
    described.set(f"{{{_RDF}}}about", "")
    for name, value in properties.items():
        prefix, _, local = name.partition(":")
        ElementTree.SubElement(described, f"{{{NAMESPACES[prefix]}}}{local}").text = value
    ElementTree.indent(root, " ")
    return (_HEAD + ElementTree.tostring(root, encoding="unicode") + _TAIL).encode()


def embed_xmp(path: Path, packet: bytes) -> None:
    """Put a packet into an MP4 without one, before its media data if the header comes first, else at the end."""
    box = (24 + len(packet)).to_bytes(4) + b"uuid" + _UUID + packet
    with path.open("rb") as file:
        boxes = list(_boxes(file, 0, path.stat().st_size))
        kinds = [kind for kind, *_ in boxes]
        header = next((place for place in boxes if place[0] == b"moov"), None)
        if header and b"mdat" in kinds[kinds.index(b"moov") :]:
            _, first, stop = header
            file.seek(first)
            moved = _moved(file.read(stop - first), len(box))
            if moved is not None:
                draft = path.with_name(f"{path.name}.xmp")
                with draft.open("wb") as out:
                    file.seek(0)
                    out.write(file.read(first) + moved + box)
                    file.seek(stop)
                    shutil.copyfileobj(file, out, 1 << 20)
                draft.replace(path)
                return
    with path.open("ab") as file:
        file.write(box)


def read_xmp(path: Path) -> dict[str, str]:
    """The properties in ``NAMESPACES`` of an MP4's packet, e.g. ``xmp:CreatorTool``; empty when none can be read."""
    with path.open("rb") as file:
        for kind, first, stop in _boxes(file, 0, path.stat().st_size):
            file.seek(first)
            body = first + (16 if file.read(4) == b"\0\0\0\1" else 8)
            file.seek(body)
            if kind == b"uuid" and file.read(16) == _UUID:
                return _properties(file.read(min(stop - body - 16, _LARGEST)))
    return {}


def _properties(packet: bytes) -> dict[str, str]:
    try:
        root = ElementTree.fromstring(
            packet.decode().lstrip("\ufeff")
        )  # expat fetches nothing, and bounds what entities grow to
    except (UnicodeDecodeError, ElementTree.ParseError):
        return {}
    prefixes = {uri: prefix for prefix, uri in NAMESPACES.items()}
    found = {}
    for described in root.iter(f"{{{_RDF}}}Description"):
        for name, value in [*described.items(), *((each.tag, each.text or "") for each in described)]:
            uri, _, local = name.removeprefix("{").partition("}")
            if uri in prefixes:
                found[f"{prefixes[uri]}:{local}"] = value
    return found


def _boxes(file: BinaryIO, first: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, first byte and end of the boxes in a part of a file (ISO/IEC 14496-12, 4.2), as far as they can be followed."""
    while first + 8 <= stop:
        file.seek(first)
        header = file.read(16)
        size = int.from_bytes(header[:4])
        size = int.from_bytes(header[8:16]) if size == 1 else size or stop - first
        if size < 8 or first + size > stop:
            return
        yield header[4:8], first, first + size
        first += size


def _moved(header: bytes, distance: int) -> bytes | None:
    """``moov`` for media data that lies further back; None when a place would be too large for its entry."""
    moved, file = bytearray(header), io.BytesIO(header)
    boxes = list(_boxes(file, 0, len(header)))
    for name in _PATH:
        boxes = [inner for kind, first, stop in boxes if kind == name for inner in _boxes(file, first + 8, stop)]
    for kind, first, _ in boxes:
        if entry := _OFFSETS.get(kind):
            count, begin = int.from_bytes(header[first + 12 : first + 16]), first + 16
            places = np.frombuffer(header, entry, count, begin).astype(np.uint64) + distance
            if count and places.max() > np.iinfo(entry).max:
                return None
            moved[begin : begin + count * np.dtype(entry).itemsize] = places.astype(entry).tobytes()
    return bytes(moved)
