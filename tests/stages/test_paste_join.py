"""Paste and join: only the face changes, parts are found again, and nothing half-made becomes visible."""

from __future__ import annotations

import dataclasses as dc
import json
from pathlib import Path

import numpy as np
import pytest
from cutting import cut
from eight_pairs import decoded

from latentsync_ray import assets
from latentsync_ray.config import Recipe
from latentsync_ray.errors import MixedParts, StorageUnavailable
from latentsync_ray.layout import declaration
from latentsync_ray.media.xmp import SOURCE_TYPE, read_xmp
from latentsync_ray.reasons import Reason
from latentsync_ray.sinks.mp4 import Mp4Sink
from latentsync_ray.stages.join import STEPS, Join, Unfinished
from latentsync_ray.stages.parts import finished_parts, load_part
from latentsync_ray.stages.paste import Paste
from latentsync_ray.stages.plan import Plan
from latentsync_ray.types import ClipRecord, FaceCrops, GeneratedFaces, Pair, Part, Segment

RECIPE = Recipe(model="nano", detector="embedded", segment_frames=80, crf=0, preset="ultrafast")


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> list[FaceCrops]:
    pair = Pair(clip_id="a", video=str(assets.demo_video()), audio=str(assets.demo_audio()))
    plan = Plan(RECIPE, str(tmp_path_factory.mktemp("plan")))(pair)
    return cut(plan, RECIPE)


def pasted(segments: list[FaceCrops], output: Path, checkpoints: str = "ab") -> list[Part]:
    """Parts whose faces are plain grey, and whose lips are said to move 80 ms after the sound changes."""
    change = np.random.default_rng(0).uniform(0, 1, segments[0].frame_count).astype(np.float32)
    motion = np.roll(change, 2)
    motion[0] = np.nan
    paste = Paste(RECIPE, str(output))
    grey = [np.full_like(crops.faces, 128) for crops in segments]
    return [
        paste(
            GeneratedFaces.of(
                crops,
                faces=new,
                checkpoint=made_by,
                mouth_motion=motion[crops.start : crops.stop],
                speech_change=change[crops.start : crops.stop],
            )
        )
        for crops, new, made_by in zip(segments, grey, checkpoints, strict=True)
    ]


def test_only_the_mouth_region_changes_and_a_frame_without_face_not_at_all(segments: list[FaceCrops], tmp_path: Path) -> None:
    first = segments[0]
    rest = first.frames != 7
    pairs = {name: getattr(first, name)[rest] for name in ("frames", "tracks", "weights", "affines", "outlines")}
    part = Paste(RECIPE, str(tmp_path))(GeneratedFaces.of(first, faces=np.full_like(first.faces[rest], 128), **pairs))
    assert part.missing == 1
    result, source = decoded(Path(part.uri)).astype(int), decoded(assets.demo_video())[: len(first.faces)].astype(int)
    changed = np.abs(result - source).max(axis=-1) > 6
    assert not changed[7].any()
    assert changed[8].mean() > 0.02
    rows, columns = np.nonzero(changed[8])
    across = np.linalg.norm(first.affines[8][:, :2], axis=0).mean()
    assert rows.max() - rows.min() < 140 / across
    assert not changed[8][: rows.min()].any()
    assert columns.max() - columns.min() < 105 / across


def test_join_publishes_commits_and_cleans_up(segments: list[FaceCrops], tmp_path: Path) -> None:
    parts = pasted(segments, tmp_path, "aa")
    assert finished_parts(str(tmp_path), parts[0]).tolist() == [0, 1]
    for name, value in load_part(str(tmp_path), segments[0]).to_row().items():
        expected = getattr(parts[0], name) if name != "found" else True
        np.testing.assert_array_equal(value, expected)  # of the first part, with a NaN
    record = Join(RECIPE, str(tmp_path), Mp4Sink(str(tmp_path)))(parts[::-1])
    assert (record.status, record.frames, record.checkpoint) == ("ok", parts[0].frame_count, "a")
    assert (record.sync_correlation, record.sync_lag_ms) == (pytest.approx(1, abs=0.05), 80)
    assert record.sync_score is not None
    assert record.sync_score < 0.3, "a grey mouth does not speak"
    assert Path(str(record.output)).stat().st_size == record.bytes
    assert finished_parts(str(tmp_path), parts[0]).tolist() == []
    assert [path.name for path in (tmp_path / "_work" / "records").iterdir()] == ["a.json"]
    joined = decoded(Path(str(record.output)))
    assert len(joined) == record.frames


def test_a_clip_says_how_it_was_made(segments: list[FaceCrops], tmp_path: Path) -> None:
    parts = pasted(segments, tmp_path, "aa")
    record = Join(RECIPE.model_copy(update={"model": "/home/me/nano"}), str(tmp_path), Mp4Sink(str(tmp_path)))(parts)
    file = Path(str(record.output))
    assert read_xmp(file) == {
        "xmp:CreatorTool": f"latentsync_ray {record.version}",
        "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE,
        "Iptc4xmpExt:AISystemUsed": "nano",
        "latentsync:checkpoint": "a",
        "latentsync:recipe": record.recipe,
        "latentsync:seed": str(record.seed),
        "latentsync:guidanceScale": str(record.guidance_scale),
        "latentsync:videoSha256": record.video_sha256,
        "latentsync:audioSha256": record.audio_sha256,
    }
    assert None not in (record.seed, record.guidance_scale, record.video_sha256)
    content = file.read_bytes()
    assert not any(name in content for name in (b"/home/me", str(tmp_path).encode(), assets.demo_video().name.encode()))


def test_a_step_of_ones_own_sees_the_file_and_adds_to_the_record(segments: list[FaceCrops], tmp_path: Path) -> None:
    seen: list[str] = []

    def label(work: Unfinished) -> None:
        seen.append(f"{work.file.name} {work.file.is_file()} {'output' in work.facts}")
        work.facts["content_credentials"] = "ours"

    steps = (*STEPS[:-1], label, STEPS[-1])
    record = Join(RECIPE, str(tmp_path), Mp4Sink(str(tmp_path)), steps=steps)(pasted(segments, tmp_path, "aa"))
    assert seen == ["a.mp4 True False"]
    assert (record.status, record.content_credentials) == ("ok", "ours")


def test_parts_of_two_contents_are_refused_and_dropped(segments: list[FaceCrops], tmp_path: Path) -> None:
    first, second = pasted(segments, tmp_path, "aa")
    with pytest.raises(MixedParts, match="made of different inputs"):
        Join(RECIPE, str(tmp_path), Mp4Sink(str(tmp_path)))([first, Part.of(second, key="another")])
    assert finished_parts(str(tmp_path), first).tolist() == []
    assert not (tmp_path / "clips").exists()


def test_parts_of_different_checkpoints_are_refused_and_dropped(segments: list[FaceCrops], tmp_path: Path) -> None:
    parts = pasted(segments, tmp_path)
    with pytest.raises(MixedParts, match="a on , b on "):
        Join(RECIPE, str(tmp_path), Mp4Sink(str(tmp_path)))(parts)
    assert finished_parts(str(tmp_path), parts[0]).tolist() == []
    assert not (tmp_path / "clips").exists()


def test_a_part_without_its_declaration_is_not_finished(segments: list[FaceCrops], tmp_path: Path) -> None:
    part = pasted(segments, tmp_path)[0]
    Path(part.uri).with_suffix(".json").unlink()
    assert finished_parts(str(tmp_path), part).tolist() == [1]


def test_parts_from_before_lips_were_measured_are_still_good(segments: list[FaceCrops], tmp_path: Path) -> None:
    parts = pasted(segments, tmp_path, "aa")
    sidecar = Path(parts[0].uri).with_suffix(".json")
    row = json.loads(sidecar.read_text())
    lately = {field.name for field in dc.fields(Part) if field.metadata}
    sidecar.write_text(json.dumps({name: value for name, value in row.items() if name not in lately}))
    old = load_part(str(tmp_path), segments[0])
    assert np.isnan(old.mouth_motion).all()
    assert (len(old.looked_at), len(old.traits), old.grids.shape) == (0, 0, (0, 2, 8, 12))
    assert len(old.mouth_motion) == len(old.speech_change) == old.stop - old.start
    assert old.lips.shape == (old.stop - old.start, 3)
    assert np.isnan(old.lips).all()
    record = Join(RECIPE, str(tmp_path), Mp4Sink(str(tmp_path)))([old, parts[1]])
    assert record.sync_correlation is not None
    assert record.seam is not None, "of the other part"
    assert record.frames_no_face == 0


def test_a_frame_that_passes_through_is_counted_by_its_reason(segments: list[FaceCrops], tmp_path: Path) -> None:
    first, second = segments
    reasons = np.zeros(len(first.source_frames), np.uint8)
    reasons[[5, 6, 7]] = Reason.COVERED, Reason.COVERED, Reason.TURNED
    rest = reasons[first.frames] == Reason.SHOWN
    pairs = {name: getattr(first, name)[rest] for name in ("frames", "tracks", "weights", "affines", "outlines", "faces")}
    paste, join = Paste(RECIPE, str(tmp_path)), Join(RECIPE, str(tmp_path), Mp4Sink(str(tmp_path)))
    parts = [paste(GeneratedFaces.of(first, reasons=reasons, **pairs)), paste(GeneratedFaces.of(second, faces=second.faces))]
    record = join([load_part(str(tmp_path), first), parts[1]])
    assert (record.frames_without_face, record.frames_covered, record.frames_turned) == (3, 2, 1)
    assert (record.frames_no_face, record.frames_not_speaker, record.frames_too_brief) == (0, 0, 0)
    assert record.frames_out_of_picture == 0
    parts = [paste(GeneratedFaces.of(first, **pairs)), paste(GeneratedFaces.of(second, faces=second.faces))]
    unknown = join(parts)  # which found faces in all frames, and lost three
    assert (unknown.frames_without_face, unknown.frames_covered, unknown.frames_no_face) == (3, None, None)


def test_parts_that_went_away_are_worth_another_run(segments: list[FaceCrops], tmp_path: Path) -> None:
    parts = pasted(segments, tmp_path, "aa")
    Path(parts[1].uri).unlink()
    with pytest.raises(MixedParts, match="went away"):
        Join(RECIPE, str(tmp_path), Mp4Sink(str(tmp_path)))(parts)
    with pytest.raises(MixedParts, match="went away"):
        load_part(str(tmp_path), segments[1])


@pytest.mark.parametrize("content", [b"", b"null", b'{"cli'])
def test_a_part_whose_declaration_is_torn_is_made_again(segments: list[FaceCrops], tmp_path: Path, content: bytes) -> None:
    parts = pasted(segments, tmp_path)
    Path(declaration(parts[1].uri)).write_bytes(content)
    with pytest.raises(MixedParts, match="is not whole"):
        load_part(str(tmp_path), segments[1])
    assert finished_parts(str(tmp_path), parts[0]).tolist() == [0]


def test_parts_are_found_where_the_output_is_now(segments: list[FaceCrops], tmp_path: Path) -> None:
    part = pasted(segments, tmp_path / "old")[0]
    (tmp_path / "old").rename(tmp_path / "new")
    assert load_part(str(tmp_path / "new"), segments[0]).uri == part.uri.replace("/old/", "/new/")


def test_nothing_is_recorded_when_publishing_fails(segments: list[FaceCrops], tmp_path: Path) -> None:
    class Broken(Mp4Sink):
        def publish(self, local_mp4: Path, clip_name: str):
            raise StorageUnavailable("the bucket is away")

    parts = pasted(segments, tmp_path, "aa")
    with pytest.raises(StorageUnavailable):
        Join(RECIPE, str(tmp_path), Broken(str(tmp_path)))(parts)
    assert finished_parts(str(tmp_path), parts[0]).tolist() == [0, 1], "the parts are kept for the next try"
    assert not (tmp_path / "_work" / "records").exists()


def test_a_finished_part_keeps_no_address_and_takes_todays(segments: list[FaceCrops], tmp_path: Path) -> None:
    part = pasted(segments, tmp_path)[0]
    sidecar = Path(part.uri).with_suffix(".json")
    row = json.loads(sidecar.read_text())
    assert not row.keys() & {"video", "audio"}
    sidecar.write_text(
        json.dumps({**row, "video": "https://h.example/expired", "audio": "https://h.example/expired"})
    )  # as 0.1.0
    segment = Segment.of(part, audio="https://h.example/a.wav?signed=again")
    assert load_part(str(tmp_path), segment).audio == segment.audio
    assert load_part(str(tmp_path), segment).video == part.video


def test_a_published_clip_has_not_failed_when_its_record_cannot_be_committed(
    segments: list[FaceCrops], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(output: str, record: ClipRecord) -> None:
        raise StorageUnavailable("the disk is full")

    monkeypatch.setattr("latentsync_ray.stages.join.commit_pending", away)
    parts = pasted(segments, tmp_path, "aa")
    record = Join(RECIPE, str(tmp_path), Mp4Sink(str(tmp_path)))(parts)
    assert (record.status, Path(str(record.output)).stat().st_size) == ("ok", record.bytes)
    assert "the disk is full" in caplog.text
    assert finished_parts(str(tmp_path), parts[0]).tolist() == [0, 1], "they are kept until the row is safe"


def test_lips_are_measured_of_faces_that_are_large_enough(segments: list[FaceCrops], tmp_path: Path) -> None:
    """The pipeline's crops have the mouths of the video's own speech: whoever sees them hears that it is other speech."""
    paste = Paste(RECIPE, str(tmp_path))
    parts = [paste(GeneratedFaces.of(crops, faces=crops.faces)) for crops in segments]
    assert all(np.isfinite(part.lips).all() for part in parts)
    assert np.concatenate([part.lips for part in parts])[:, 0].std() > 0.05
    first = segments[0]
    tiny = GeneratedFaces.of(first, faces=first.faces, affines=first.affines * np.float32(20))
    assert np.isnan(paste._lips(tiny)).all()


def test_what_is_said_of_sync_does_not_depend_on_how_a_clip_is_cut(tmp_path: Path) -> None:
    pair = Pair(clip_id="a", video=str(assets.demo_video()), audio=str(assets.demo_video()))
    told = []
    for frames in (32, 80, 256):
        recipe = RECIPE.model_copy(update={"segment_frames": frames})
        output = str(tmp_path / str(frames))
        paste = Paste(recipe, output)
        parts = [
            paste(GeneratedFaces.of(crops, faces=crops.faces, checkpoint="a"))
            for crops in cut(Plan(recipe, output)(pair), recipe)
        ]
        record = Join(recipe, output, Mp4Sink(output))(parts)
        told.append((len(parts), record.sync_score, record.sync_offset_ms))
    (first, *same), *others = told
    assert first > others[0][0] > others[1][0]
    assert all(list(other[1:]) == same for other in others)
    assert same[0] is not None
    assert same[0] > 0.8, "the portrait with its own speech"
    assert abs(same[1]) <= 40
