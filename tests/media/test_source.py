"""Probing: what is learned of good files, and what is refused, by which error."""

from __future__ import annotations

import socket
import struct
from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.stream import Disposition
from make_clips import moving, opened, speech_like, write_clip, write_speech

from latentsync_ray.errors import InputNotFound, TooLarge, UnreadableAudio, UnreadableVideo
from latentsync_ray.media.colour import BT709, Colour
from latentsync_ray.media.source import AudioInfo, open_media, probe_audio, probe_video


def test_packet_table_is_what_decoding_gives(tmp_path, probe) -> None:
    for name in ("a.mp4", "a.mkv", "a.ts", "a.flv", "a.mov"):
        path = write_clip(tmp_path / name, moving(30), fps=30, options={"bf": "3"})
        index = probe(path)
        with opened(path) as container:
            decoded = list(container.decode(video=0))
        assert index.pts.tolist() == [frame.pts for frame in decoded]
        assert [index.pts.tolist().index(pts) for pts in index.key_pts] == [r for r, f in enumerate(decoded) if f.key_frame]
        assert (index.rate, index.codec, index.pixel_format) == (30, "h264", "yuv420p")
        assert index.seconds == pytest.approx(1.0, abs=0.04)
        assert index.timed


def test_start_is_that_of_the_earliest_stream(tmp_path, probe) -> None:
    index = probe(write_clip(tmp_path / "a.mp4", moving(10), offset=0.4, audio=speech_like(1, 44_100)))
    assert index.start == 0
    assert int(index.pts[0]) * index.time_base == Fraction(2, 5)


def test_sizes_follow_the_rotation(tmp_path, probe) -> None:
    plain = probe(write_clip(tmp_path / "a.mp4", moving(2)))
    turned = probe(write_clip(tmp_path / "b.mp4", moving(2), rotation=90))
    assert (plain.width, plain.height, plain.turns) == (96, 64, 0)
    assert (turned.width, turned.height, turned.coded_size) == (64, 96, (96, 64))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_the_shape_of_pixels_follows_the_rotation(tmp_path, probe, name: str) -> None:
    path = write_clip(tmp_path / name, moving(2), pixel_aspect=Fraction(4, 3))
    assert probe(path).pixel_aspect == Fraction(4, 3)
    turned = write_clip(tmp_path / "b.mp4", moving(2), pixel_aspect=Fraction(4, 3), rotation=90)
    assert probe(turned).pixel_aspect == Fraction(3, 4)


def test_colour_tags_are_read_and_rgb_becomes_bt709(tmp_path, probe) -> None:
    assert probe(write_clip(tmp_path / "a.mp4", moving(2))).colour == Colour()
    assert probe(write_clip(tmp_path / "b.mp4", moving(2), colour=(1, 9, 9, 16))).colour == Colour(1, 9, 9, 16)
    assert probe(write_clip(tmp_path / "c.mkv", moving(2), codec="libx264rgb", pix_fmt="rgb24")).colour == BT709


def test_audio_of_audio_and_video_files(tmp_path) -> None:
    assert probe_audio(write_speech(tmp_path / "a.wav", speech_like(1, 48_000, 2), rate=48_000)).sample_rate == 48_000
    clip = write_clip(tmp_path / "a.mp4", moving(5), audio=speech_like(1, 44_100, 2))
    assert probe_audio(clip) == AudioInfo(codec="aac", sample_rate=44_100, channels=2, layout="stereo")
    assert probe_audio(write_speech(tmp_path / "b.wav", speech_like(1, channels=8))).channels == 8


def test_no_such_file_or_a_folder(tmp_path, probe) -> None:
    for path in (tmp_path / "none.mp4", tmp_path):
        with pytest.raises(InputNotFound, match="is not a file"):
            probe(path)


@pytest.mark.parametrize("content", [b"", b"just some text, renamed\n" * 50, bytes(range(256)) * 40])
def test_not_media(tmp_path, probe, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(UnreadableVideo, match=r"a\.mp4 (is empty|cannot be opened)"):
        probe(tmp_path / "a.mp4")
    with pytest.raises(UnreadableAudio, match=r"a\.mp4 (is empty|cannot be opened)"):
        probe_audio(tmp_path / "a.mp4")


def test_missing_streams_are_named(tmp_path, probe) -> None:
    with pytest.raises(UnreadableVideo, match="no video stream"):
        probe(write_speech(tmp_path / "a.wav", speech_like(0.5)))
    with pytest.raises(UnreadableAudio, match="no audio stream"):
        probe_audio(write_clip(tmp_path / "a.mp4", moving(5)))


def test_cover_art_is_not_a_video(tmp_path, probe) -> None:
    path = tmp_path / "a.mp3"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=44_100)
        cover = container.add_stream("png", rate=1, width=32, height=32, pix_fmt="rgb24")
        cover.disposition = Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(moving(1, 32, 32)[0], "rgb24")
        frame.pts = 0
        container.mux(cover.encode(frame))
        container.mux(cover.encode(None))
        tone = av.AudioFrame.from_ndarray(speech_like(1, 44_100, 2).reshape(1, -1), "s16", "stereo")
        tone.sample_rate, tone.pts = 44_100, 0
        container.mux(sound.encode(tone))
        container.mux(sound.encode(None))
    with pytest.raises(UnreadableVideo, match="cover"):
        probe(path)
    assert probe_audio(path).codec.startswith("mp3")


@pytest.mark.parametrize("name", ["header-last.mp4", "header-first.mp4", "a.mkv", "a.avi", "a.flv"])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_cut_off_files(tmp_path, probe, name: str, share: float) -> None:
    path = write_clip(tmp_path / name, moving(100), gop=25, audio=speech_like(4, 44_100))
    if name == "header-first.mp4":
        plain = path.rename(tmp_path / "plain.mp4")
        with opened(plain) as source, av.open(str(path), "w", options={"movflags": "+faststart"}) as out:
            tracks = {stream.index: out.add_stream_from_template(stream) for stream in source.streams}
            for packet in source.demux():
                if packet.size:
                    packet.stream = tracks[packet.stream_index]
                    out.mux(packet)
    whole = path.read_bytes()
    assert len(probe(path)) == 100
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UnreadableVideo, match="cut off"):
        probe(path)


def test_limits(tmp_path) -> None:
    path = write_clip(tmp_path / "a.mp4", moving(50))
    assert len(probe_video(path, max_pixels=96 * 64, max_seconds=2)) == 50
    with pytest.raises(TooLarge, match=r"96x64 px, more than max_pixels = 6143"):
        probe_video(path, max_pixels=96 * 64 - 1, max_seconds=2)
    with pytest.raises(TooLarge, match="max_seconds"):
        probe_video(path, max_pixels=96 * 64, max_seconds=1.9)


def test_a_limit_of_the_displayed_size_accepts_padded_coding(tmp_path) -> None:
    path = write_clip(tmp_path / "a.mp4", moving(3, 104, 66))  # coded as 112x80
    assert len(probe_video(path, max_pixels=104 * 66, max_seconds=2)) == 3


def test_a_forged_size_allocates_nothing(tmp_path, probe) -> None:
    path = write_clip(tmp_path / "a.mp4", moving(3))
    data = bytearray(path.read_bytes())
    at = data.index(b"avc1", data.index(b"stsd"))
    data[at + 28 : at + 32] = struct.pack(">HH", 60_000, 60_000)
    path.write_bytes(data)
    try:
        index = probe_video(path, max_pixels=1 << 20, max_seconds=5)
    except TooLarge:
        return
    assert index.coded_size == (96, 64)  # the stream itself tells the truth


@pytest.mark.parametrize("trick", ["m3u8", "concat", "sdp", "ffconcat-http"])
def test_files_that_point_elsewhere_are_not_followed(tmp_path, probe, trick: str) -> None:
    secret = write_clip(tmp_path / "secret.ts", moving(5), audio=speech_like(0.2, 44_100))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        port = server.getsockname()[1]
        text = {
            "m3u8": f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n",
            "concat": f"ffconcat version 1.0\nfile '{secret}'\n",
            "ffconcat-http": f"ffconcat version 1.0\nfile 'http://127.0.0.1:{port}/a.ts'\n",
            "sdp": f"v=0\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        }[trick]
        for name in ("a.mp4", f"a.{trick.partition('-')[0]}"):
            path = tmp_path / name
            path.write_text(text)
            with pytest.raises(UnreadableVideo):
                probe(path)
            with pytest.raises(UnreadableAudio):
                probe_audio(path)
            with pytest.raises(UnreadableVideo), open_media(path.read_bytes(), UnreadableVideo):
                pass
        with pytest.raises(BlockingIOError):  # nobody called
            server.accept()


def test_names_that_look_like_protocols_are_files(tmp_path, probe, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "a.mp4", moving(3)).rename("concat:b.mp4|c.mp4")
    assert len(probe(Path("concat:b.mp4|c.mp4"))) == 3


def test_real_footage(clips: Path, probe) -> None:
    index = probe(clips / "demo1_video.mp4")
    assert (index.codec, len(index), index.width, index.height, index.rate) == ("hevc", 250, 1080, 1920, 25)
