from __future__ import annotations

import json

import pytest

from latentsync_ray.errors import ConfigError
from latentsync_ray.records import Records
from latentsync_ray.report import summarise
from latentsync_ray.types import ClipRecord


def record(clip_id: str, **known) -> ClipRecord:
    return ClipRecord.from_row({"clip_id": clip_id, "video": "v", "audio": "a", "status": "ok", **known})


@pytest.fixture
def output(tmp_path) -> str:
    with Records(str(tmp_path)) as table:
        table.add(record("short", frames=25, duration=1.0, bytes=10, generate_seconds=5.0, join_seconds=1.0))
        table.add(record("long", frames=75, duration=3.0, bytes=30, generate_seconds=15.0, frames_without_face=4))
        for clip_id, code in [("f1", "no_face"), ("f2", "worker_died"), ("f3", "no_face")]:
            table.add(record(clip_id, status="failed", error_code=code, error=f"about {clip_id}", crop_seconds=2.0))
    return str(tmp_path)


def test_counts_and_sums(output):
    report = summarise(output)
    assert (report.clips, report.ok, report.failed) == (5, 2, 3)
    assert (report.frames, report.frames_without_face, report.output_seconds, report.bytes) == (100, 4, 4.0, 40)
    assert report.stage_seconds == {"plan": 0.0, "track": 0.0, "crop": 6.0, "generate": 20.0, "paste": 0.0, "join": 1.0}
    assert report.frames_per_second["generate"] == 5.0
    assert "plan" not in report.frames_per_second


def test_failures_by_code_with_an_example(output):
    most, least = summarise(output).failures
    assert (most.code, most.count, most.transient) == ("no_face", 2, False)
    assert [(example.clip_id, example.message) for example in most.examples] == [("f1", "about f1"), ("f3", "about f3")]
    assert (least.code, least.count, least.transient, least.examples[0].clip_id) == ("worker_died", 1, True, "f2")


def test_messages_are_without_secrets(tmp_path):
    error = "https://host/a.mp4?X-Amz-Signature=SECRET does not answer"
    with Records(str(tmp_path)) as table:
        table.add(record("a", status="failed", error_code="storage_unavailable", error=error))
    assert "SECRET" not in json.dumps(summarise(str(tmp_path)).to_json())


def test_least_in_sync(tmp_path):
    with Records(str(tmp_path)) as table:
        for clip_id, correlation in [("a", 0.5), ("b", -0.2), ("c", None), ("d", float("nan")), ("e", 0.1)]:
            table.add(record(clip_id, frames=25, sync_score=correlation, sync_offset_ms=40.0))
        table.add(record("f", status="failed", error_code="no_face", error="none"))
    report = summarise(str(tmp_path), least_in_sync=2)
    assert [(clip.clip_id, clip.sync_score) for clip in report.least_in_sync] == [("b", -0.2), ("e", 0.1)]
    json.dumps(report.to_json(), allow_nan=False)


def test_languages(tmp_path):
    with Records(str(tmp_path)) as table:
        for number, language in enumerate(["de", "fr", "de", None]):
            table.add(record(f"c{number}", frames=25, duration=1.0, language=language))
        table.add(record("bad", status="failed", error_code="no_face", error="none", language="fr"))
    rows = [(row.language, row.clips, row.failed, row.frames, row.seconds) for row in summarise(str(tmp_path)).languages]
    assert rows == [("de", 2, 0, 50, 2.0), ("fr", 2, 1, 25, 1.0), (None, 1, 0, 25, 1.0)]


def test_it_is_json_with_numbers_as_numbers(output):
    told = json.loads(json.dumps(summarise(output).to_json(), allow_nan=False))
    assert told["output"] == output
    assert (told["clips"], told["bytes"], told["stage_seconds"]["generate"]) == (5, 40, 20.0)
    assert told["failures"][0]["examples"][0] == {"clip_id": "f1", "language": None, "message": "about f1"}
    assert told["first_finished_at"] is told["course"] is None


def test_slowest(output):
    slow = summarise(output, slowest=2).slowest
    assert [(clip.clip_id, clip.seconds, clip.frames) for clip in slow] == [("long", 15.0, 75), ("short", 6.0, 25)]


def test_how_busy_the_device_was(output, tmp_path_factory):
    assert summarise(output).speed == "", "records of a version that did not know it"
    output = str(tmp_path_factory.mktemp("busy"))
    card = {"card": "NVIDIA A100-SXM4-40GB", "precision": "cuda sm_80 x108 bfloat16", "tflop": 1560.0}
    with Records(output) as table:
        table.add(record("a", generate_seconds=10.0, idle_seconds=0.0, paste_seconds=3.0, **card))
        table.add(record("b", generate_seconds=10.0, idle_seconds=5.0, crop_seconds=1.0, **card))
        table.add(record("c", status="failed", error_code="no_face", error="none", track_seconds=2.0))
    assert summarise(output).speed == (
        "model on NVIDIA A100-SXM4-40GB: 80% busy, at 50% of its peak; 20% waiting (paste took most of the other stages' time)"
    )
    assert "at 25% of its peak" in summarise(output, peak=624.0).speed


def test_nothing_yet(tmp_path):
    with pytest.raises(ConfigError, match="has no records"):
        summarise(str(tmp_path))


def test_a_bug_is_told_in_a_line(tmp_path):
    with Records(str(tmp_path)) as table:
        table.add(record("a", status="failed", error_code="internal_error", error="KeyError: 'x'\nTraceback\n..."))
    assert summarise(str(tmp_path)).failures[0].examples[0].message == "KeyError: 'x'"
