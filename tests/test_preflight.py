"""What can be known is told before Ray and the model start, in seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from latentsync_ray import Cluster, ConfigError, Job, ModelError, Recipe, driver, lipsync, passes, preflight, storage
from latentsync_ray.job_file import build_job, load_job
from latentsync_ray.models.latentsync import family
from latentsync_ray.pipeline.cluster import _sees
from latentsync_ray.records import Records
from latentsync_ray.stages.failures import failed_record
from latentsync_ray.types import ClipRecord

RECIPE = Recipe(model="tiny-random", detector="embedded", steps=1)


def manifest(folder: Path, present: int, missing: int) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "v.mp4").touch()
    (folder / "a.wav").touch()
    rows = [{"clip_id": f"c{number}", "video": "v.mp4", "audio": "a.wav"} for number in range(present)]
    rows += [{"clip_id": f"m{number}", "video": f"gone{number}.mp4", "audio": "a.wav"} for number in range(missing)]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pairs were handed to the runner, which fails each."""
    counts: list[int] = []

    def dub(pairs: Any, job: Job, **_: Any) -> Any:
        counts.append(len(pairs))
        for pair in pairs:
            yield failed_record(pair, job.recipe, storage.InputNotFound("gone"))

    runner = SimpleNamespace(prepare=lambda job: job, listener=lambda job, left: print, one_pass=dub, logs_folder=str)
    monkeypatch.setattr(passes, "_runner", lambda job: runner)
    return counts


class Notes(list[str]):
    """A display that keeps the notes."""

    def __getattr__(self, name: str) -> Any:
        return self.append if name == "note" else lambda *_, **__: None


def job(folder: Path, source: str, **more: Any) -> Job:
    return Job(manifest=source, output=folder / "out", recipe=RECIPE, cluster=Cluster(), **more)


def test_a_manifest_of_wrong_paths_is_refused(tmp_path: Path, started: list[int]) -> None:
    source = manifest(tmp_path / "in", 1, 999)
    with pytest.raises(ConfigError) as caught:
        driver.run(job(tmp_path, source))
    told = str(caught.value)
    assert "of 3" in told
    assert f"row 33: {tmp_path}/in/gone31.mp4" in told
    assert "relative to the manifest's folder" in told
    assert started == []
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_a_few_wrong_paths_are_noted(tmp_path: Path, started: list[int]) -> None:
    notes = Notes()
    driver.run(job(tmp_path, manifest(tmp_path / "in", 20, 5), failure_budget=1.0), progress=notes)  # pyright: ignore[reportArgumentType]
    assert started == [25]
    assert any("5 of 7 inputs that were looked at do not exist" in note for note in notes)


def test_what_is_left_of_a_finished_job_is_tried(tmp_path: Path, started: list[int]) -> None:
    source = manifest(tmp_path / "in", 30, 2)
    (tmp_path / "in" / "v.mp4").unlink()  # used up
    with Records(str(tmp_path / "out"), recipe=RECIPE.fingerprint()) as table:
        for number in range(30):
            known = {"clip_id": f"c{number}", "video": "v", "audio": "a", "status": "ok", "recipe": RECIPE.fingerprint()}
            table.add(ClipRecord.from_row(known))
    with pytest.raises(ConfigError, match="2 of 3 inputs"):
        driver.run(job(tmp_path, source))
    driver.run(job(tmp_path, source, failure_budget=0.7))
    assert started == [2]


def test_inputs_that_do_not_answer_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    forever = threading.Event()
    answers = {"gs://b/missing": False, "gs://b/there": True, "gs://b/away": None}
    monkeypatch.setattr(storage, "seen", lambda uri: answers[uri] if uri in answers else forever.wait(60))
    monkeypatch.setattr(preflight, "_SECONDS", 0.5)
    began = time.monotonic()
    try:
        assert preflight._look([*answers, "gs://b/hangs"]) == answers
    finally:
        forever.set()
    assert time.monotonic() - began < 30


def test_weights_that_are_missing_are_told_before_the_runner_starts(tmp_path: Path, started: list[int]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "latentsync.json").write_text('{"resolution": 128}')
    wrong = {"recipe": Recipe(model=str(tmp_path / "model"))}
    with pytest.raises(ModelError, match=r"no weights of (.|\n)*put latentsync_unet.pt"):
        driver.run(job(tmp_path, manifest(tmp_path / "in", 3, 0)).model_copy(update=wrong))
    assert started == []
    with pytest.raises(ConfigError, match='"insightface" needs packages that are not installed'):
        driver.run(job(tmp_path, manifest(tmp_path / "in", 3, 0)).model_copy(update={"recipe": Recipe(detector="insightface")}))


def test_a_finished_job_needs_no_weights(tmp_path: Path, started: list[int]) -> None:
    recipe = Recipe(model="latentsync-1.6", detector="embedded")
    finished = job(tmp_path, manifest(tmp_path / "in", 1, 0)).model_copy(update={"recipe": recipe})
    with Records(finished.output, recipe=recipe.fingerprint()) as table:
        known = {"clip_id": "c0", "video": "v", "audio": "a", "status": "ok", "recipe": recipe.fingerprint()}
        table.add(ClipRecord.from_row(known))
    assert driver.run(finished).done_before == 1


def test_the_command_ends_in_seconds_and_without_a_traceback(tmp_path: Path) -> None:
    tree = {"manifest": manifest(tmp_path / "in", 3, 0), "output": str(tmp_path / "out"), "recipe": {"model": "latentsync-1.6"}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "LATENTSYNC_RAY_MODELS": str(tmp_path / "models")}
    code = "import sys; from latentsync_ray.cli import main\ntry: main()\nfinally: print('ray' in sys.modules)"
    command = [sys.executable, "-c", code, "run", str(tmp_path / "job.yaml")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "error: no weights of latentsync-1.6 on this machine" in ended.stderr
    assert "hf download ByteDance/LatentSync-1.6" in ended.stderr
    assert ended.stdout.strip() == "False", "Ray was not even imported"


def test_lipsync_looks_for_its_inputs_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentsync_ray.local.one_clip.LipSync", lambda *_, **__: pytest.fail("a model was loaded"))
    monkeypatch.setattr("latentsync_ray.local.one_clip.check_recipe", lambda *_, **__: pytest.fail("a model was looked for"))
    (tmp_path / "v.mp4").touch()
    for video, audio in (("gone.mp4", "v.mp4"), ("v.mp4", "gone.wav")):
        record = lipsync(tmp_path / video, tmp_path / audio, tmp_path / "o.mp4", recipe=Recipe(model="latentsync-1.6"))
        assert record.error_code == "input_not_found"
        assert "gone" in str(record.error)
        assert (record.model, record.clip_id) == ("latentsync-1.6", "o")


def test_lipsync_sees_whether_it_may_write(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").touch()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write .*file/o.mp4"):
        lipsync(tmp_path / "v.mp4", tmp_path / "v.mp4", tmp_path / "file" / "o.mp4", recipe=RECIPE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "v.mp4"]


@pytest.mark.parametrize("output", ["out", "./out", "~/out"])
def test_a_relative_output_and_a_cluster_are_refused(output: str, tmp_path: Path) -> None:
    told = rf"output is relative \({output}\), and cluster.address is set: name a URI"
    with pytest.raises(ConfigError, match=told):
        build_job({"manifest": "m.csv", "output": output}, "cluster.address=auto", source="job.yaml")
    with pytest.raises(ValueError, match=told):
        Job(manifest="m.csv", output=output, cluster=Cluster(address="auto"))
    (tmp_path / "job.yaml").write_text(f"manifest: m.csv\noutput: {output}\n")
    assert Path(load_job(tmp_path / "job.yaml").output).is_absolute()
    for fine in ("/mnt/out", "gs://b/out"):
        assert Job(manifest="m.csv", output=fine, cluster=Cluster(address="auto")).output == fine


def test_a_node_says_which_paths_it_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("latentsync_ray.pipeline.cluster.time", SimpleNamespace(sleep=waited.append))
    assert _sees({"output": str(tmp_path), "recipe.model": str(tmp_path / "nowhere")}) == ["recipe.model"]
    assert sum(waited) == 5, "seconds: network filesystems are slow to show what is new"


def test_a_cluster_only_has_to_find_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes, recipe = Notes(), Recipe(model="latentsync-1.6", detector="embedded")
    monkeypatch.setattr(family, "locate", lambda *_, **__: pytest.fail("it was fetched to the driver"))
    for here, told in (
        (True, []),
        (False, ["nodes that do not have latentsync-1.6 download it, 5.48 GB, before their first clip"]),
    ):
        monkeypatch.setattr(family, "check_reachable", lambda _, here=here: here)
        preflight.check_recipe(recipe, note=notes.append, fetch=False)
        assert notes == told
    folder = tmp_path / "models/latentsync-1.6"
    folder.mkdir(parents=True)
    (folder / "latentsync_unet.pt").touch()
    monkeypatch.undo()
    monkeypatch.setenv("LATENTSYNC_RAY_MODELS", str(tmp_path / "models"))
    with pytest.raises(ModelError, match=r"holds latentsync_unet\.pt but not whisper/tiny\.pt"):
        preflight.check_recipe(recipe, note=notes.append, fetch=False)
