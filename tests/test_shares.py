"""What stages ask Ray for on clusters of all sorts."""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa
import pytest

from latentsync_ray import Cluster, ConfigError, Job, pipeline
from latentsync_ray.pipeline.shares import shares

GIB = 2**30
LAPTOP = {"CPU": 2.0, "memory": 4.0 * GIB}
HEAD = {"CPU": 0.0, "memory": 2.0 * GIB}
A100 = {"CPU": 32.0, "memory": 100.0 * GIB, "GPU": 8.0, "accelerator_type:A100": 1.0}
V100 = {"CPU": 16.0, "memory": 60.0 * GIB, "GPU": 4.0, "accelerator_type:V100": 1.0}


def test_a_laptop_runs_all_stages_at_once() -> None:
    ask = shares(Cluster(), [LAPTOP])
    assert ask.of["crop"] == ask.of["paste"] == {"num_cpus": 0.5}
    assert ask.of["generate"] == {"num_gpus": 0.0, "num_cpus": 0.5}
    assert ask.workers == (1, 1)


def test_a_node_with_gpus_is_booked_for_what_is_used() -> None:
    ask = shares(Cluster(), [HEAD, A100, A100])
    assert ask.of["crop"] == {"num_cpus": 1.0, "memory": GIB // 2}
    assert ask.of["paste"] == {"num_cpus": 1.0, "memory": GIB // 2}
    assert ask.of["generate"] == {"num_gpus": 1.0, "num_cpus": 0.5, "memory": 4 * GIB, "accelerator_type": "A100"}
    assert ask.workers == (1, 16)


def test_the_smallest_node_decides() -> None:
    assert shares(Cluster(), [A100, LAPTOP]).of["crop"] == {"num_cpus": 0.5}


def test_what_was_set_holds() -> None:
    cluster = Cluster(crop_cpus=2, paste_cpus=0.25, generate_gpus=0.5, generate_cpus=3, generate_workers=(2, 9))
    ask = shares(cluster, [A100])
    assert (ask.of["crop"]["num_cpus"], ask.of["paste"]["num_cpus"]) == (2, 0.25)
    assert (ask.of["generate"]["num_gpus"], ask.of["generate"]["num_cpus"]) == (0.5, 3)
    assert ask.workers == (2, 9)
    assert shares(Cluster(generate_gpus=0.5), [A100]).workers == (1, 16)


def test_models_run_on_one_kind_of_gpu(caplog: pytest.LogCaptureFixture) -> None:
    ask = shares(Cluster(), [V100, A100, V100])
    assert ask.of["generate"]["accelerator_type"] in ("A100", "V100")
    ask = shares(Cluster(), [V100, A100])
    assert ask.of["generate"]["accelerator_type"] == "A100"
    assert ask.workers == (1, 8)
    assert "several kinds (8 A100, 4 V100)" in caplog.text
    ask = shares(Cluster(accelerator="V100"), [V100, A100])
    assert ask.of["generate"]["accelerator_type"] == "V100"
    assert ask.workers == (1, 4)


def test_the_kind_is_chosen_once_for_all_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nodes that come between two passes must not give half a clip to another kind."""
    present = [A100, V100]
    monkeypatch.setattr(pipeline, "connect", lambda _: None)
    monkeypatch.setattr(pipeline, "nodes", lambda: present)
    monkeypatch.setattr(pipeline, "ask_device", lambda *_: None)
    job = pipeline.prepare(Job(manifest="pairs.csv", output=tmp_path))
    present += [V100, V100]
    assert shares(job.cluster, present).of["generate"]["accelerator_type"] == "A100"
    assert pipeline.prepare(job) == job


def test_clips_of_one_video_are_spread_so_that_its_faces_are_known_by_then() -> None:
    """And not so far that its file or its pictures are gone from the caches."""
    rows = [{"clip_id": f"{video}{n}", "video": video} for video in "abcd" for n in range(3)]
    spread = pipeline._spread(pa.Table.from_pylist(rows), 6)["clip_id"].to_pylist()
    assert spread == ["a0", "b0", "a1", "b1", "a2", "b2", "c0", "d0", "c1", "d1", "c2", "d2"]


def test_a_kind_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match=r"models run on 'H100' .*, and the cluster has 8 A100: name one of those"):
        shares(Cluster(accelerator="H100"), [A100])
    assert shares(Cluster(accelerator="H100", generate_gpus=1), [A100]).of["generate"]["accelerator_type"] == "H100"


def test_one_kind_is_no_news_and_a_processor_has_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert shares(Cluster(), [A100, A100, HEAD]).of["generate"]["accelerator_type"] == "A100", "others may come"
    assert "accelerator_type" not in shares(Cluster(), [{"CPU": 4.0, "GPU": 1.0}]).of["generate"], "Ray does not know it"
    assert "accelerator_type" not in shares(Cluster(device="cpu"), [A100, V100]).of["generate"]
    assert caplog.text == ""


def test_a_cluster_without_gpus_yet() -> None:
    with pytest.raises(ConfigError, match="has no GPU yet"):
        shares(Cluster(address="auto"), [LAPTOP])
    assert shares(Cluster(address="auto", generate_gpus=1, generate_workers=(1, 4)), []).workers == (1, 4)
    waiting = shares(Cluster(address="auto", generate_workers=(0, 4)), [LAPTOP])
    assert (waiting.workers, waiting.of["generate"]["num_gpus"]) == ((1, 4), 1.0)
    assert shares(Cluster(generate_workers=(0, 4)), [LAPTOP]).of["generate"]["num_gpus"] == 0, "a cluster of its own gets none"
    assert shares(Cluster(address="auto", device="cpu"), [LAPTOP]).of["generate"]["num_gpus"] == 0
