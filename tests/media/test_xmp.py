"""What a clip says of its making, in the file itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import av
import pytest
from make_clips import moving, opened, speech_like, write_clip

from latentsync_ray.media import xmp
from latentsync_ray.media.xmp import SOURCE_TYPE, embed_xmp, read_xmp, xmp_packet

SAID = {"xmp:CreatorTool": "a <tool> & ü", "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE, "latentsync:seed": "7"}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """As ``join_parts`` writes them: the header comes first."""
    late = write_clip(tmp_path / "late.mp4", moving(20), audio=speech_like(0.8, channels=2))
    with av.open(str(late)) as source, av.open(str(tmp_path / "c.mp4"), "w", options={"movflags": "+faststart"}) as container:
        tracks = {stream: container.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.size:
                packet.stream = tracks[packet.stream]
                container.mux(packet)
    return tmp_path / "c.mp4"


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux() if packet.size]


@pytest.mark.parametrize("first", [True, False])
def test_it_is_where_others_read_it_and_moves_no_packet(clip: Path, tmp_path: Path, first: bool) -> None:
    """In front of the media data, where FFmpeg ends; at the end of the file where the header comes last."""
    clip = clip if first else tmp_path / "late.mp4"
    marked = Path(shutil.copy(clip, tmp_path / "marked.mp4"))
    embed_xmp(marked, xmp_packet(SAID))
    assert read_xmp(marked) == SAID
    assert read_xmp(clip) == {}
    assert packets(marked) == packets(clip)
    with opened(marked) as container:
        assert len(list(container.decode(video=0))) == 20
    with av.open(str(marked), options={"export_xmp": "1"}) as container:
        assert SOURCE_TYPE in container.metadata["xmp"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.mp4", "late.mp4", "marked.mp4"]


def test_the_same_properties_give_the_same_bytes(clip: Path, tmp_path: Path) -> None:
    copies = [Path(shutil.copy(clip, tmp_path / f"{number}.mp4")) for number in range(2)]
    for copy in copies:
        embed_xmp(copy, xmp_packet(SAID))
    assert copies[0].read_bytes() == copies[1].read_bytes()


def test_places_beyond_four_gigabytes(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit its entry any more goes to the end of the file; eight bytes hold any place."""
    before = clip.read_bytes()
    header = before[before.index(b"moov") - 4 :]
    header = header[: int.from_bytes(header[:4])]
    assert xmp._moved(header, 1 << 32) is None
    assert len(xmp._moved(header, 1000) or b"") == len(header)
    monkeypatch.setattr(xmp, "_moved", lambda *_: None)
    embed_xmp(clip, xmp_packet(SAID))
    assert clip.read_bytes().startswith(before)
    assert read_xmp(clip) == SAID


@pytest.mark.parametrize("content", [b"", b"no boxes at all", (40).to_bytes(4) + b"uuid" + xmp._UUID + b"<broken>" + bytes(8)])
def test_other_files_say_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert read_xmp(tmp_path / "file") == {}


def test_attributes_count_as_properties(tmp_path: Path) -> None:
    """As other programs write them."""
    packet = xmp_packet({}).replace(
        b'rdf:about=""', f'rdf:about="" xmlns:xmp="{xmp.NAMESPACES["xmp"]}" xmp:CreatorTool="x"'.encode()
    )
    (tmp_path / "file").write_bytes((24 + len(packet)).to_bytes(4) + b"uuid" + xmp._UUID + packet)
    assert read_xmp(tmp_path / "file") == {"xmp:CreatorTool": "x"}


def test_packets_of_others(tmp_path: Path) -> None:
    """In boxes with 64-bit sizes, and of any size: no more is read than a packet could have."""
    packet, file = xmp_packet(SAID), tmp_path / "a.mp4"
    head = bytes.fromhex("00000010") + b"ftypisom" + bytes(4)
    box = b"uuid" + (16 + 16 + len(packet)).to_bytes(8) + xmp._UUID + packet
    file.write_bytes(head + (1).to_bytes(4) + box)
    assert read_xmp(file) == SAID
    file.write_bytes(head + bytes(4) + b"uuid" + xmp._UUID + b"<a>")
    os.truncate(file, 1 << 40)
    assert read_xmp(file) == {}
