"""What is told before anything is started."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pytest

from latentsync_ray import Job, preflight, run
from latentsync_ray.errors import ConfigError, ModelError, StorageUnavailable, WeightsNotFound
from latentsync_ray.types import ClipRecord, Pair, Part


class Notes:
    """Progress that remembers notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, total: int, done: int) -> None: ...

    def frames(self, count: int) -> None: ...

    def clip(self, record: ClipRecord) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stop(self) -> None: ...


def job(tmp_path: Path, **changes: object) -> Job:
    recipe = {"model": "tiny-random", **{name: changes.pop(name) for name in ("model", "detector") if name in changes}}
    cluster = {name: changes.pop(name) for name in ("address", "runner") if name in changes}
    return Job.model_validate(
        {"manifest": str(tmp_path / "m.csv"), "output": str(tmp_path / "out"), "recipe": recipe, "cluster": cluster, **changes}
    )


def manifest(tmp_path: Path, present: int, missing: int) -> pa.Table:
    """``missing`` rows come last."""
    (tmp_path / "there").write_bytes(b"x")
    videos = ["there"] * present + [f"gone{number}" for number in range(missing)]
    lines = "".join(f"{number},{video},there\n" for number, video in enumerate(videos))
    (tmp_path / "m.csv").write_text(f"clip_id,video,audio\n{lines}")
    there = str(tmp_path / "there")
    return pa.table(
        {
            "clip_id": [str(number) for number in range(len(videos))],
            "video": [str(tmp_path / video) for video in videos],
            "audio": [there] * len(videos),
        }
    )


def codes(table: pa.Table, *, done: int = 0) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([""] * done + [None] * (len(table) - done), pa.string())])


def test_a_manifest_of_wrong_paths_stops_the_job(tmp_path: Path) -> None:
    manifest(tmp_path, 1, 999)
    with pytest.raises(ConfigError) as caught:
        run(job(tmp_path, model="latentsync-1.6"))
    text = str(caught.value)
    assert text.startswith("of 32 clips looked at, spread over the manifest, 31 lack an input: ")
    named = (
        text.partition(": ")[2].partition(" and 28 more. Relative paths are relative to the manifest's folder")[0].split(", ")
    )
    assert len(named) == 3
    assert all(name.startswith(str(tmp_path / "gone")) for name in named)


@pytest.mark.parametrize(
    ("present", "missing", "budget", "stops"),
    [
        (1, 1, 0.0, False),
        (1, 2, 0.0, True),
        (1, 2, 0.7, False),
        (0, 1, 0.0, True),
        (0, 3, 1.0, False),
        (1000, 1000, 0.0, False),
    ],
)
def test_how_many_may_be_missing(present: int, missing: int, budget: float, stops: bool, tmp_path: Path) -> None:
    table, notes = manifest(tmp_path, present, missing), Notes()
    asked = job(tmp_path, failure_budget=budget)
    if stops:
        with pytest.raises(ConfigError, match="lack an input"):
            preflight.check_inputs(asked, table, codes(table), note=notes.note)
    else:
        preflight.check_inputs(asked, table, codes(table), note=notes.note)
        assert [note.rpartition("; ")[2] for note in notes.notes] == ["they will be recorded as input_not_found"]


def test_what_is_there_needs_no_word(tmp_path: Path) -> None:
    table, notes = manifest(tmp_path, 40, 0), Notes()
    preflight.check_inputs(job(tmp_path), table, codes(table), note=notes.note)
    assert notes.notes == []


def test_finished_clips_count_as_present(tmp_path: Path) -> None:
    """Their inputs may have been removed since; the leftovers are the broken ones."""
    table, notes = manifest(tmp_path, 0, 40), Notes()
    preflight.check_inputs(job(tmp_path), table, codes(table, done=30), note=notes.note)
    assert len(notes.notes) == 1


def test_storage_that_does_not_answer_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, notes, ended = manifest(tmp_path, 2, 2), Notes(), threading.Event()

    def exists(uri: str) -> bool:
        if uri.endswith("gone0"):
            raise StorageUnavailable("down")
        return not uri.endswith("gone1") or ended.wait(60)

    monkeypatch.setattr(preflight.storage, "exists", exists)
    monkeypatch.setattr(preflight, "_SAMPLE_SECONDS", 0.5)
    try:
        preflight.check_inputs(job(tmp_path), table, codes(table), note=notes.note)
    finally:
        ended.set()
    assert notes.notes == []


def test_an_output_that_cannot_be_written_stops_the_job(tmp_path: Path) -> None:
    manifest(tmp_path, 1, 0)
    with pytest.raises(ConfigError, match=r"cannot write .*/m\.csv/out/_work/"):
        run(job(tmp_path, output=str(tmp_path / "m.csv/out")))
    preflight.check_output(str(tmp_path / "fine"))
    assert [path for path in (tmp_path / "fine").rglob("*") if path.is_file()] == []


def test_an_output_whose_storage_is_silent_or_down_stops_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(preflight, "_OUTPUT_SECONDS", 0.2)
    monkeypatch.setattr(preflight.storage, "write_bytes", lambda *_: ended.wait(60))
    try:
        with pytest.raises(ConfigError, match=r"memory://bucket/out gave no answer in 0 s"):
            preflight.check_output("memory://bucket/out")
    finally:
        ended.set()

    def fails(*_: object) -> None:
        raise StorageUnavailable("storage failed 9 times")

    monkeypatch.setattr(preflight.storage, "write_bytes", fails)
    with pytest.raises(ConfigError, match="the output cannot be written to: storage failed 9 times"):
        preflight.check_output("memory://bucket/out")


def test_an_output_whose_filesystem_is_not_installed() -> None:
    if preflight.find_module("s3fs"):
        pytest.skip("needs a machine without s3fs")
    with pytest.raises(ConfigError, match="needs a filesystem that is not installed"):
        preflight.check_output("s3://bucket/out")


def test_missing_weights_stop_the_job_before_a_runner_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest(tmp_path, 1, 0)
    monkeypatch.setenv("LATENTSYNC_RAY_MODELS", str(tmp_path / "models"))
    (tmp_path / "models/latentsync-1.6").mkdir(parents=True)
    (tmp_path / "models/latentsync-1.6/latentsync_unet.pt").write_bytes(b"x")
    monkeypatch.setattr("latentsync_ray.driver._runner", lambda job: pytest.fail("a runner was started"))
    for cluster in ({"runner": "ray"}, {"runner": "local"}, {"address": "auto"}):
        with pytest.raises(WeightsNotFound, match=r"holds latentsync_unet\.pt but not whisper/tiny\.pt"):
            run(job(tmp_path, model="latentsync-1.6", **cluster))


def test_a_finished_job_needs_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest(tmp_path, 1, 0)

    def runner(pairs: list[Pair], _: Job) -> list[Part | ClipRecord]:
        return [ClipRecord(clip_id=pair.clip_id, video=pair.video, audio=pair.audio, status="ok") for pair in pairs]

    monkeypatch.setattr("latentsync_ray.driver._runner", lambda job: runner)
    found: list[str] = []
    monkeypatch.setattr(preflight, "locate", lambda spec, **_: found.append(spec.name))
    asked = job(tmp_path, model="latentsync-1.6", mixed_recipes=True)
    assert run(asked).ok == 1
    assert found == ["latentsync-1.6"]
    (tmp_path / "there").unlink()
    assert run(asked).done_before == 1
    assert found == ["latentsync-1.6"]


def test_nodes_that_download_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    monkeypatch.setattr(preflight, "check_reachable", lambda spec: False)
    preflight.have_weights(job(tmp_path, model="latentsync-1.6", address="auto"), note=notes.note)
    assert notes.notes == ["nodes that do not have latentsync-1.6 download it, 5.48 GB, before their first clip"]
    monkeypatch.setattr(preflight, "check_reachable", lambda spec: True)
    preflight.have_weights(job(tmp_path, model="latentsync-1.6", address="auto"), note=notes.note)
    preflight.have_weights(job(tmp_path, address="auto"), note=notes.note)
    assert len(notes.notes) == 1


def test_settings_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for changes, error, match in (
        ({"model": "latentsync-9"}, ConfigError, "no model 'latentsync-9'"),
        ({"model": str(tmp_path)}, ModelError, "does not say what it is"),
        ({"detector": "none"}, ConfigError, "unknown detector 'none'"),
        ({"detector": "insightface"}, ConfigError, "needs packages that are not installed"),
        (
            {"detector": "insightface", "address": "auto"},
            ConfigError,
            "needs insightface and onnxruntime, here and on every node",
        ),
    ):
        with pytest.raises(error, match=match):
            run(job(tmp_path, **changes))
    monkeypatch.chdir(tmp_path)
    Path("own").mkdir()
    Path("own/latentsync.json").write_text('{"resolution": 128}')
    with pytest.raises(ConfigError, match=r"recipe\.model is 'own', .* and cluster\.address is 'auto'"):
        run(job(tmp_path, model="own", address="auto"))
    preflight.check_settings(job(tmp_path, model="own"))
    preflight.check_settings(job(tmp_path, model=str(tmp_path / "own"), address="auto"))
