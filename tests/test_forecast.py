"""What a plan says, against what the run then does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from eight_pairs import portrait
from make_clips import write_clip
from typer.testing import CliRunner

from latentsync_ray import Cluster, ConfigError, Job, Recipe, read_records, run
from latentsync_ray.cli import app
from latentsync_ray.forecast import forecast, probe
from latentsync_ray.lease import Lease
from latentsync_ray.manifest import read_manifest, to_pair
from latentsync_ray.marking import Signing
from latentsync_ray.media.speech import write_wav
from latentsync_ray.resources import Budget

RECIPE = Recipe(model="tiny-random", detector="embedded", steps=1, preset="ultrafast")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_clip(folder / "talk.mp4", portrait(40))
    for name, seconds in (("one", 1.0), ("two", 2.0)):
        noise = np.random.default_rng(0).normal(0, 3000, round(16_000 * seconds)).astype(np.int16)
        write_wav(folder / f"{name}.wav", noise)
    (folder / "text.mp4").write_text("no video")
    rows = ["one,talk.mp4,one.wav", "two,talk.mp4,two.wav", "text,text.mp4,one.wav", "gone,talk.mp4,gone.wav"]
    (folder / "pairs.csv").write_text("\n".join(["clip_id,video,audio", *rows]))
    return folder


def job(inputs: Path, output: Path, **fields: object) -> Job:
    asked = {"recipe": RECIPE, "cluster": Cluster(runner="local"), **fields}
    return Job.model_validate({"manifest": str(inputs / "pairs.csv"), "output": str(output), **asked})


def below(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_plan_says_what_the_run_will_do_and_writes_nothing(inputs: Path, tmp_path: Path) -> None:
    asked = job(inputs, tmp_path / "out")
    told = forecast(asked)
    assert not (tmp_path / "out").exists()
    assert (told.total, told.new, told.done, told.probed) == (4, 4, 0, 4)
    assert told.failures == {"unreadable_video": 1, "input_not_found": 1}
    assert told.examples["input_not_found"].startswith("gone (row 4): ")
    assert (told.frames, told.hours) == (75, pytest.approx(3 / 3600))
    sizes = {name: (inputs / name).stat().st_size for name in ("talk.mp4", "one.wav", "two.wav")}
    assert told.bytes_in is not None
    assert told.bytes_in >= sum(sizes.values())
    assert (told.device_hours, told.dollars, told.bytes_out, told.lacking) == (None, None, None, [])

    summary = run(asked)
    assert (summary.ok, summary.failed, summary.frames) == (2, 2, told.frames)
    before = below(tmp_path)
    with Lease(asked.output):  # as while a run is at work
        held = below(tmp_path)
        again = forecast(asked, price=3.0)
        assert below(tmp_path) == held
    assert below(tmp_path).keys() == before.keys()
    assert (again.done, again.failed, again.new, again.retried) == (2, 1, 0, 1), "a missing input may have arrived"
    made = read_records(asked.output).filter(read_records(asked.output)["error_code"].is_null()).to_pylist()
    busy = sum(row["generate_seconds"] + row["idle_seconds"] for row in made)
    assert again.frames_per_second == pytest.approx(75 / busy)


def test_a_sample_stands_for_all(inputs: Path, tmp_path: Path) -> None:
    names = [f"n{number},talk.mp4,one.wav" for number in range(30)]
    (tmp_path / "pairs.csv").write_text("\n".join(["clip_id,video,audio", *names]).replace("talk", str(inputs / "talk")))
    text = (tmp_path / "pairs.csv").read_text().replace("one.wav", str(inputs / "one.wav"))
    (tmp_path / "pairs.csv").write_text(text)
    asked = job(inputs, tmp_path / "out", manifest=str(tmp_path / "pairs.csv"), budget=Budget(dollars=9, dollars_per_hour=2))
    told = forecast(asked, sample=5, speed=25.0)
    assert (told.probed, told.frames, told.device_hours) == (5, 30 * 25, pytest.approx(30 / 3600))
    assert told.dollars == pytest.approx(60 / 3600)
    assert told.over_budget is False
    assert told.bytes_in == (inputs / "talk.mp4").stat().st_size + (inputs / "one.wav").stat().st_size
    limited = forecast(asked.model_copy(update={"limit": 10}), sample=0)
    assert (limited.new, limited.left, limited.frames) == (10, 20, None)


def test_what_is_lacking_is_told_and_exits_with_two(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        f"manifest: {inputs / 'pairs.csv'}\noutput: {tmp_path / 'out'}\n"
        "recipe: {model: tiny-random, detector: embedded, micro_batch: 64}\n"
        "cluster: {runner: local, device: cuda, device_memory_gb: 0.01}\n"
    )
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "job.yaml"), "--json"])
    assert result.exit_code == 2
    told = json.loads(result.stdout)
    assert told["new"] == 4
    assert "device_memory_gb is 0.01" in told["lacking"][0]
    shown = CliRunner().invoke(app, ["run", "--dry-run", str(tmp_path / "job.yaml"), "cluster.device_memory_gb=null"])
    assert shown.exit_code == 0
    assert "4 of 4 clips to be made: 4 new" in shown.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", [None, "ray://host:10001"])
def test_a_signature_that_cannot_be_made_is_lacking_and_stops_a_run(address: str | None, inputs: Path, tmp_path: Path) -> None:
    """A runner in this process signs here, whatever cluster the job names."""
    signing = Signing(certificates=str(tmp_path / "none.pem"), key=str(tmp_path / "none.pem"))
    asked = job(inputs, tmp_path / "out", signing=signing, cluster=Cluster(runner="local", address=address))
    (told,) = forecast(asked, sample=0).lacking
    assert told.startswith("signing.key cannot be read on this machine")
    with pytest.raises(ConfigError, match=r"signing\.key cannot be read"):
        run(asked)
    assert not (tmp_path / "out" / "metadata").exists()


def test_an_output_that_cannot_be_written_is_lacking(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may, asked = os.access, list[Path]()
    monkeypatch.setattr("os.access", lambda path, mode: asked.append(path) if mode == os.W_OK else may(path, mode))
    told = forecast(job(inputs, tmp_path / "new" / "out"), sample=0)
    assert told.lacking == [
        f"{tmp_path}/new/out cannot be written by this user; change its permissions, or name another output"
    ]
    assert asked == [tmp_path]


def test_money_needs_a_price() -> None:
    with pytest.raises(ValueError, match="dollars needs dollars_per_hour"):
        Budget(dollars=3)
    assert Budget(dollars=3, dollars_per_hour=2, gpu_hours=9).hours == 1.5
    assert Budget().hours is None


def test_a_budget_ends_a_run_before_it_is_exceeded(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(
        "\n".join(["clip_id,video,audio", *(f"n{number},{inputs}/talk.mp4,{inputs}/one.wav" for number in range(6))])
    )
    asked = job(inputs, tmp_path / "out", manifest=str(tmp_path / "pairs.csv"), budget=Budget(gpu_hours=1e-6))
    summary = run(asked)
    assert (summary.stopped, summary.exit_code) == ("budget", 3)
    assert summary.left == 6 - summary.ok > 0
    assert run(asked.model_copy(update={"budget": Budget()})).exit_code == 0


def test_a_budget_of_less_than_a_segment_gets_on_by_one_in_each_run(inputs: Path, tmp_path: Path) -> None:
    rows = [f"n{number},{inputs}/talk.mp4,{inputs}/one.wav" for number in range(3)]
    (tmp_path / "pairs.csv").write_text("\n".join(["clip_id,video,audio", *rows]))
    small = job(inputs, tmp_path / "out", manifest=str(tmp_path / "pairs.csv"), budget=Budget(gpu_hours=1e-9))
    ended = [run(small) for _ in range(3)]
    assert [summary.done_before + summary.ok for summary in ended] == [0, 1, 3]
    assert [summary.exit_code for summary in ended] == [3, 3, 0]
    assert [summary.frames for summary in ended] == [25, 25, 25], "none is made twice"


def test_a_plan_says_what_a_retry_makes_again(inputs: Path, tmp_path: Path) -> None:
    asked = job(inputs, tmp_path / "out")
    run(asked)
    again = forecast(asked.model_copy(update={"retry": ("all",)}))
    assert (again.new, again.changed, again.retried, again.again) == (0, 0, 2, 2)
    (tmp_path / "job.yaml").write_text(
        f"manifest: {inputs / 'pairs.csv'}\noutput: {tmp_path / 'out'}\ncluster: {{runner: local}}\n"
        "recipe: {model: tiny-random, detector: embedded, steps: 1, preset: ultrafast}\n"
    )
    shown = CliRunner().invoke(app, ["plan", str(tmp_path / "job.yaml"), "--retry", "all", "--limit", "3"])
    assert shown.exit_code == 0
    assert "3 of 4 clips to be made: 1 tried again, 2 dubbed before" in shown.stdout
    assert "1 left by the limit" in shown.stdout


def test_nodes_of_a_cluster_look_at_inputs(inputs: Path, tmp_path: Path, ray_cluster: None) -> None:
    from latentsync_ray.pipeline import probe_all, shortage

    asked = job(inputs, tmp_path / "out", cluster=Cluster())
    table = read_manifest(asked.manifest)
    pairs = [to_pair(table, row) for row in range(4)]
    assert list(probe_all(probe, pairs * 5, asked)) == [probe(pair, asked) for pair in pairs] * 5
    wanting = asked.model_copy(update={"cluster": Cluster(generate_gpus=2, generate_workers=(3, 3))})
    assert any("generate asks for 6 GPU, and the cluster has 0 now" in each for each in shortage(wanting))


def test_a_manifest_without_rows_is_no_plan(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("clip_id,video,audio\n")
    with pytest.raises(ConfigError, match="has no rows"):
        forecast(job(inputs, tmp_path / "out", manifest=str(tmp_path / "empty.csv")))
