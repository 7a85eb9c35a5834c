"""Odd and bad inputs, all in one run: each has its row, with the status and code of this table, and costs no other its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from corpus import (
    FRAMES,
    ONSET,
    Make,
    clip,
    cut,
    damaged,
    data,
    extra_streams,
    faces,
    floats,
    folder,
    forged_size,
    glued,
    heard,
    link,
    locked,
    renamed,
    speech,
    text,
    voice,
    with_cover,
    write_pairs,
    zipped,
)
from make_clips import opened
from offline import offline, web

from latentsync_ray import Cluster, Job, Recipe, read_records, retry, run
from latentsync_ray.driver import Summary
from latentsync_ray.media.speech import write_wav

RECIPE = Recipe(model="toy:TOY", detector="embedded", preset="ultrafast", max_pixels=1 << 20, max_seconds=5)
NOBODY = [np.full((128, 128, 3), (20, 90, 160), np.uint8)] * 3
HTTP = "http://127.0.0.1:{port}/clip.ts"
"""Where nobody may call: files that name it are not followed."""

VIDEOS: dict[str, tuple[Make, str]] = {
    # Containers and codecs
    "talk.mp4": (clip(), "ok"),
    "h264.mkv": (clip(), "ok"),
    "h264.ts": (clip(options={"bf": "2"}), "ok"),
    "h265.mp4": (clip(codec="libx265", options={"x265-params": "log-level=none"}), "ok"),
    "vp9.webm": (clip(codec="libvpx-vp9", options={"deadline": "realtime"}), "ok"),
    "mpeg2.ts": (clip(codec="mpeg2video"), "ok"),
    "mpeg2.mpg": (clip(codec="mpeg2video"), "ok"),
    "mpeg4.avi": (clip(codec="mpeg4"), "ok"),
    "h264-with-b-frames.avi": (clip(options={"bf": "2"}), "ok"),
    "wmv2.asf": (clip(codec="wmv2"), "ok"),
    "prores.mov": (clip(codec="prores_ks", pix_fmt="yuv422p10le"), "ok"),
    "animation.mov": (clip(codec="qtrle", pix_fmt="rgb24"), "ok"),
    "lossless.mkv": (clip(codec="ffv1", pix_fmt="yuv444p"), "ok"),
    "moving.gif": (clip(codec="gif", pix_fmt="rgb8"), "ok"),
    "fragments.mp4": (extra_streams(options={"movflags": "frag_keyframe+empty_moov"}), "ok"),
    "mkv-named.mp4": (renamed(".mkv", clip()), "ok"),
    "without-suffix": (renamed(".mp4", clip()), "ok"),
    # Sizes, orientation, colour
    "127x129.mp4": (clip(width=127, height=129, pix_fmt="yuv444p"), "ok"),
    "1024x64.mp4": (clip(width=1024, height=64), "ok"),
    "64x512.mp4": (clip(width=64, height=512), "ok"),
    "1x1.mkv": (clip(width=1, height=1, codec="ffv1", pix_fmt="yuv444p"), "no_face"),
    "2x2.mp4": (clip(width=2, height=2), "no_face"),
    "16x16.mp4": (clip(width=16, height=16), "no_face"),
    "1100x1000.mp4": (clip(frames=[np.zeros((1000, 1100, 3), np.uint8)]), "too_large"),
    "forged-60000x60000.mov": (forged_size, "unreadable_video"),
    "rotated-90.mp4": (clip(frames=faces(96, 128, turned=-1), rotation=90), "ok"),
    "rotated-180.mov": (clip(frames=faces(turned=2), rotation=180), "ok"),
    "mirrored.mp4": (clip(hflip=True), "ok"),
    "on-its-side.mp4": (clip(frames=faces(turned=1)), "no_face"),
    "wide-pixels.mkv": (clip(frames=faces(squeezed=0.75), pixel_aspect=Fraction(4, 3)), "ok"),
    "yuv444.mp4": (clip(pix_fmt="yuv444p"), "ok"),
    "10-bit.mp4": (clip(pix_fmt="yuv420p10le"), "ok"),
    "grey.mp4": (clip(pix_fmt="gray"), "ok"),
    "alpha.webm": (clip(codec="libvpx-vp9", pix_fmt="yuva420p", options={"deadline": "realtime"}), "ok"),
    "rgb.mkv": (clip(codec="libx264rgb", pix_fmt="rgb24"), "ok"),
    "full-range.mp4": (clip(colour=(2, 1, 1, 1)), "ok"),
    "hdr.mp4": (clip(pix_fmt="yuv420p10le", colour=(1, 9, 9, 16)), "ok"),
    "size-changes.ts": (glued(clip(codec="mpeg2video"), clip(width=64, height=64, codec="mpeg2video")), "ok"),
    # Time
    "one-frame.mp4": (clip(frames=faces(count=1)), "ok"),
    "1-fps.mp4": (clip(fps=1, frames=faces(count=4)), "ok"),
    "120-fps.mp4": (clip(fps=120), "ok"),
    "uneven.mp4": (clip(times=[0, 3, 90, 91, 92, 200, 300, 301, 390, 400]), "ok"),
    "starts-late.mp4": (clip(offset=0.3), "ok"),
    "starts-before-zero.mp4": (extra_streams(first=-4, options={"avoid_negative_ts": "disabled"}), "ok"),
    "clock-jumps.ts": (glued(clip(codec="mpeg2video"), clip(codec="mpeg2video", offset=3)), "ok"),
    # Streams
    "two-videos.mkv": (extra_streams(videos=2), "ok"),
    "with-data.ts": (extra_streams(notes=True), "ok"),
    "with-sound.mp4": (clip(audio=voice(), audio_rate=16_000), "ok"),
    "with-late-sound.ts": (clip(audio=voice(rate=48_000), audio_rate=48_000, audio_offset=0.2), "ok"),
    # Faces
    "nobody.mp4": (clip(frames=NOBODY), "no_face"),
    "sometimes.mp4": (clip(frames=faces(shown=range(3, 7)), options={"crf": "12"}), "ok"),
    # Damage
    "damaged-packets.mp4": (damaged(2, 3, 7), "ok"),
    "nothing-decodes.mp4": (damaged(*range(FRAMES)), "unreadable_video"),
    "cut-off.mp4": (cut(clip(), 0.6), "unreadable_video"),
    "cut-off.mkv": (cut(clip(frames=faces(count=40), gop=5), 0.4), "unreadable_video"),
    "begins-inside.ts": (cut(clip(frames=faces(count=40), gop=5), 1, start=0.4), "ok"),
    # What is no video
    "empty.mp4": (data(b""), "unreadable_video"),
    "text.mp4": (text("This is not a video.\n" * 50), "unreadable_video"),
    "page.mp4": (text("<!DOCTYPE html><title>404</title><p>There is nothing here</p>"), "unreadable_video"),
    "object.mp4": (text('{"error": "expired", "status": 403}'), "unreadable_video"),
    "archive.mp4": (zipped, "unreadable_video"),
    "bytes.mp4": (data(bytes(range(256)) * 40), "unreadable_video"),
    "picture.png": (clip(frames=faces(count=1), codec="png", pix_fmt="rgb24"), "unreadable_video"),
    "picture.jpg": (clip(frames=faces(count=1), codec="mjpeg", pix_fmt="yuvj420p"), "unreadable_video"),
    "moving.webp": (clip(codec="libwebp_anim", pix_fmt="yuva420p"), "unreadable_video"),
    "sound-only.mp4": (renamed(".m4a", speech("aac")), "unreadable_video"),
    "speech-as-video.wav": (speech(), "unreadable_video"),
    "cover-as-video.mp3": (with_cover, "unreadable_video"),
    "playlist.m3u8": (text(f"#EXTM3U\n#EXTINF:1,\n{HTTP}\n#EXT-X-ENDLIST\n"), "unreadable_video"),
    "playlist.mp4": (text(f"#EXTM3U\n#EXTINF:1,\n{HTTP}\n#EXT-X-ENDLIST\n"), "unreadable_video"),
    "script.mp4": (text(f"ffconcat version 1.0\nfile '{HTTP}'\n"), "unreadable_video"),
    "stream.sdp": (text("v=0\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"), "unreadable_video"),
    # Places and names
    "folder.mp4": (folder, "input_not_found"),
    "link.mp4": (link("talk.mp4"), "ok"),
    "link-to-nothing.mp4": (link("gone.mp4"), "input_not_found"),
    "link-to-itself.mp4": (link("link-to-itself.mp4"), "input_not_found"),
    "locked.mp4": (locked, "input_not_found" if os.geteuid() else "ok"),  # root may read all
    "Ünï 漢字 🎬.mp4": (clip(), "ok"),
    "a b  c.mp4": (clip(), "ok"),
    "100%25.mp4": (clip(), "ok"),
    "take#3?.mp4": (clip(), "ok"),
    "[x]*{y}'\".mp4": (clip(), "ok"),
    "-rf.mp4": (clip(), "ok"),
    "concat:a|b.mp4": (clip(), "ok"),
}
"""File name -> how to make it, and the status or error code of its clip, whose speech is ``speech.wav``."""

SPEECH: dict[str, tuple[Make, str]] = {
    "speech.wav": (speech(), "ok"),
    "8-khz.wav": (speech(rate=8_000), "ok"),
    "11025-hz.wav": (speech(rate=11_025), "ok"),
    "96-khz.wav": (speech(rate=96_000), "ok"),
    "stereo.wav": (speech(channels=2), "ok"),
    "5.1.wav": (speech(channels=6), "ok"),
    "7.1.flac": (speech("flac", channels=8), "ok"),
    "cancelling.wav": (speech(samples=voice(rate=48_000, channels=2) * np.array([1, -1], np.int16)), "ok"),
    "8-bit.wav": (speech("pcm_u8"), "ok"),
    "24-bit.wav": (speech("pcm_s24le"), "ok"),
    "mu-law.wav": (speech("pcm_mulaw", rate=8_000), "ok"),
    "float.wav": (floats(0.5), "ok"),
    "double.wav": (floats(0.5, codec="pcm_f64le"), "ok"),
    "too-loud.wav": (floats(0.5, loud=40), "ok"),
    "far-too-loud.wav": (floats(0.5, loud=2**31), "unreadable_audio"),
    "nan.wav": (floats(np.nan), "unreadable_audio"),
    "infinite.wav": (floats(np.inf, codec="pcm_f64le"), "unreadable_audio"),
    "silent.wav": (speech(samples=np.zeros((19_200, 1), np.int16)), "ok"),
    "one-sample.wav": (speech(rate=16_000, samples=np.full((1, 1), 5000, np.int16)), "ok"),
    "a-third-of-a-sample.wav": (speech(samples=np.full((1, 1), 5000, np.int16)), "unreadable_audio"),
    "no-samples.wav": (lambda path: write_wav(path, np.zeros(0, np.int16)), "unreadable_audio"),
    "too-long.wav": (speech(rate=8_000, seconds=5.5), "too_large"),
    "cut-off.wav": (cut(speech(), 0.8), "ok"),
    "sound.mp3": (speech("libmp3lame", rate=44_100), "ok"),
    "with-cover.mp3": (with_cover, "ok"),
    "cut-off.mp3": (cut(speech("libmp3lame", rate=44_100), 0.8), "ok"),
    "aac.m4a": (speech("aac", rate=44_100), "ok"),
    "alac.m4a": (speech("alac"), "ok"),
    "raw.aac": (speech("aac"), "ok"),
    "cut-off.m4a": (cut(speech("aac"), 0.8), "unreadable_audio"),
    "sound.opus": (speech("libopus"), "ok"),
    "opus.ogg": (speech("libopus", channels=2), "ok"),
    "opus.webm": (speech("libopus"), "ok"),
    "sound.flac": (speech("flac", rate=44_100), "ok"),
    "sound.aiff": (speech("pcm_s16be", rate=44_100), "ok"),
    "sound.caf": (speech("pcm_s16be"), "ok"),
    "sound.ac3": (speech("ac3"), "ok"),
    "video.mp4": (clip(audio=voice(rate=44_100)), "ok"),
    "video.mkv": (clip(audio=voice(rate=48_000), audio_rate=48_000), "ok"),
    "video-opus.mkv": (clip(audio=voice(rate=48_000), audio_rate=48_000, audio_codec="libopus"), "ok"),
    "video.ts": (clip(audio=voice(rate=48_000), audio_rate=48_000), "ok"),
    "late.mp4": (clip(audio=voice(rate=48_000), audio_rate=48_000, audio_offset=0.2), "ok"),
    "late.mkv": (clip(audio=voice(rate=48_000), audio_rate=48_000, audio_offset=0.2, audio_codec="libopus"), "ok"),
    "late.ts": (clip(audio=voice(rate=48_000), audio_rate=48_000, audio_offset=0.2), "ok"),
    "late-mp3.mp4": (clip(audio=voice(rate=48_000), audio_rate=48_000, audio_offset=0.2, audio_codec="libmp3lame"), "ok"),
    "mute.mp4": (clip(), "unreadable_audio"),
    "picture-as-speech.png": (clip(frames=faces(count=1), codec="png", pix_fmt="rgb24"), "unreadable_audio"),
    "empty.wav": (data(b""), "unreadable_audio"),
    "text.wav": (text("This is no sound.\n" * 50), "unreadable_audio"),
    "archive.wav": (zipped, "unreadable_audio"),
    "header-only.wav": (cut(speech(), 0.0005), "unreadable_audio"),
    "playlist.wav": (text(f"#EXTM3U\n#EXTINF:1,\n{HTTP}\n#EXT-X-ENDLIST\n"), "unreadable_audio"),
    "folder.wav": (folder, "input_not_found"),
}
"""File name -> how to make it, and the status or error code of its clip, whose video is ``talk.mp4``."""

OTHERS: dict[str, tuple[dict[str, str], str]] = {
    "longer pingpong": ({"audio": "long.wav", "loop_mode": "pingpong"}, "ok"),
    "longer loop": ({"video": "one-frame.mp4", "audio": "long.wav", "loop_mode": "loop"}, "ok"),
    "much shorter": ({"video": "1-fps.mp4", "audio": "one-sample.wav"}, "ok"),
    "sound of another video": ({"video": "vp9.webm", "audio": "with-late-sound.ts"}, "ok"),
    "one file for both": ({"video": "with-sound.mp4", "audio": "with-sound.mp4"}, "ok"),
    "no video there": ({"video": "gone.mp4"}, "input_not_found"),
    "no speech there": ({"audio": "gone.wav"}, "input_not_found"),
    "a name that is too long": ({"video": "x" * 300 + ".mp4"}, "input_not_found"),
    "a name with a null": ({"video": "a\0b.mp4"}, "input_not_found"),
    "file address": ({"video": "file://{folder}/talk.mp4"}, "ok"),
    "data address": ({"audio": "data:audio/wav;base64,UklGRiYAAABXQVZFZm10IBAAAAABAAEAgD4AAAB9AAACABAAZGF0YQIAAAAAAA=="}, "ok"),
    "data of no kind": ({"audio": "data:,nothing"}, "unreadable_audio"),
    "unknown scheme": ({"video": "ftpx://host/talk.mp4"}, "input_not_found"),
    "address of nothing": ({"video": "http://"}, "input_not_found"),
    "web": ({"video": "http://127.0.0.1:{site}/talk.mp4"}, "ok"),
    "web, a page": ({"video": "http://127.0.0.1:{site}/page.mp4"}, "unreadable_video"),
    "web, nothing": ({"video": "http://127.0.0.1:{site}/gone.mp4"}, "input_not_found"),
    "web, refused": ({"video": "http://127.0.0.1:{closed}/talk.mp4"}, "storage_unavailable"),
    "web without network": ({"video": "http://away.example/talk.mp4"}, "storage_unavailable"),
    "no video": ({"video": ""}, "invalid_pair"),
    "wrong loop mode": ({"loop_mode": "bounce"}, "invalid_pair"),
    "wrong guidance": ({"guidance_scale": "7"}, "invalid_pair"),
    "wrong seed": ({"seed": "-1"}, "invalid_pair"),
    "wrong face": ({"face": "somebody"}, "invalid_pair"),
    "a face that is not there": ({"face": "99"}, "no_face"),
    "no face at this point": ({"face": "2,2"}, "no_face"),
}
"""Clip id -> its row, with ``talk.mp4`` and ``speech.wav`` unless it says otherwise, and its status or error code."""

EXPECTED = {name: code for table in (VIDEOS, SPEECH, OTHERS) for name, (_, code) in table.items()}


@dataclass
class Corpus:
    """How the run ended."""

    summary: Summary
    rows: dict[str, dict[str, Any]]
    """Clip id -> its row of the table."""
    asked: list[str]
    """Hosts of other machines that were looked up or called."""
    lured: bool
    """Whether somebody called the address that playlists name."""


def write_corpus(folder: Path, omit: tuple[str, ...], ports: dict[str, int]) -> Path:
    """The files and their manifest, but for some rows."""
    makes = {name: make for name, (make, _) in (VIDEOS | SPEECH).items()}
    rows = {name: {"video": name} for name in VIDEOS} | {name: {"audio": name} for name in SPEECH}
    rows |= {name: row for name, (row, _) in OTHERS.items() if name not in omit}
    return write_pairs(folder, makes | {"long.wav": speech(seconds=1.5)}, rows, ports)


def dub(place: Path, runner: Literal["local", "ray"], *omit: str) -> Corpus:
    """Write the corpus, but for some rows, and dub it in one run."""
    with offline() as asked, web(place) as (ports, called):
        job = Job(
            manifest=write_corpus(place, omit, ports),
            output=place / "out",
            recipe=RECIPE,
            cluster=Cluster(runner=runner, device="cpu"),
            failure_budget=1,
        )
        summary = run(job)
        lured = called()
    return Corpus(summary, {row["clip_id"]: row for row in read_records(job.output).to_pylist()}, asked, lured)


def check_rows(corpus: Corpus, *omit: str) -> None:
    found = {name: row["error_code"] or row["status"] for name, row in corpus.rows.items()}
    wrong = {name: (code, corpus.rows[name]["error"]) for name, code in found.items() if code != EXPECTED[name]}
    assert not wrong, "other codes than expected"
    assert found.keys() | set(omit) == EXPECTED.keys()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retry._RETRYING, "sleep", lambda seconds: None)
        return dub(tmp_path_factory.mktemp("corpus"), "local")


def test_each_row_has_its_status_and_code(corpus: Corpus) -> None:
    assert len(EXPECTED) >= 60
    check_rows(corpus)


def test_nothing_is_left_behind_and_no_row_met_a_bug(corpus: Corpus) -> None:
    summary, good = corpus.summary, [name for name, code in EXPECTED.items() if code == "ok"]
    assert (summary.total, summary.ok, summary.bugs, summary.left) == (len(EXPECTED), len(good), 0, 0)
    assert summary.exit_code == 0
    output = Path(summary.output)
    assert {path.name for path in (output / "clips").iterdir()} == {f"{name}.mp4" for name in good}
    assert not list((output / "_work").rglob("*.mp4"))


def test_nobody_calls_another_machine(corpus: Corpus) -> None:
    assert set(corpus.asked) == {"away.example"}, "the one that a row names"
    assert not corpus.lured


def test_errors_are_a_sentence_that_names_the_file(corpus: Corpus) -> None:
    for name, row in corpus.rows.items():
        if row["status"] == "failed":
            assert len(row["error"]) > 20, name
            assert "\n" not in row["error"], name
            assert name in row["error"] or name in OTHERS, name


def test_sound_stays_in_its_place_and_pictures_last_as_long(corpus: Corpus) -> None:
    wrong = []
    for name, row in corpus.rows.items():
        if row["status"] == "ok" and name not in ("silent.wav", "one-sample.wav", "data address", "much shorter"):
            begin, end = heard(Path(row["audio"]))
            made_begin, made_end = heard(Path(row["output"]))
            early, short = made_begin - begin, row["duration"] - end
            if abs(early) > 0.002 or abs(short) > 0.04 or made_end < end - 0.001:
                wrong.append((name, early, short, made_end - end))
    assert not wrong


def test_the_voice_begins_when_it_was_spoken(corpus: Corpus) -> None:
    primed = {"raw.aac", "video.ts", "with-late-sound.ts", "late.ts", "sound.ac3"}
    for name in SPEECH.keys() - primed - {"silent.wav", "one-sample.wav"}:
        row = corpus.rows[name]
        if row["status"] == "ok":
            begins = heard(Path(row["output"]))[0] - (0.2 if name.startswith("late") else 0)
            assert begins == pytest.approx(ONSET, abs=0.002), name


def test_every_picture_is_there(corpus: Corpus) -> None:
    for name, row in corpus.rows.items():
        if row["status"] == "ok":
            with opened(Path(row["output"])) as container:
                frames = [frame.time for frame in container.decode(video=0)]
                assert container.streams.video[0].codec_context.width == row["width"], name
            assert frames == pytest.approx([number / 25 for number in range(row["frames"])]), name


@pytest.mark.slow
def test_ray_loses_no_worker(ray_cluster: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    away = "web without network"  # workers would ask for it
    corpus = dub(tmp_path, "ray", away)
    check_rows(corpus, away)
    assert "pass 2" not in caplog.text, "clips whose worker died are tried again"
    assert not corpus.asked
    assert not corpus.lured
