"""What a run tells Prometheus, and the dashboard that draws it."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
from eight_pairs import portrait
from make_clips import speech_like, write_clip, write_speech

from latentsync_ray import Cluster, Job, Recipe, run
from latentsync_ray.pipeline import metrics
from latentsync_ray.types import Part

pytestmark = pytest.mark.usefixtures("ray_cluster")
ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ROOT / "configs" / "cluster" / "grafana.json"
NAME = re.compile(r"\bray_(latentsync_\w+)")


def exported(**tags: str) -> dict[str, float]:
    """Sums by name of what Prometheus reads from this machine, of series with these tags."""
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found: dict[str, float] = {}
    for line in lines:
        series = re.fullmatch(r"ray_(latentsync_\w+)\{(.*)\} (\S+)", line)
        if series and all(f'{tag}="{value}"' in series[2] for tag, value in tags.items()):
            found[series[1]] = found.get(series[1], 0) + float(series[3])
    return found


def awaited(name: str, wanted: float, **tags: str) -> None:
    """Ray sends on metrics every ten seconds: wait until the sum of these series is there and is this."""
    until = time.monotonic() + 60
    while exported(**tags).get(name) != wanted:
        assert time.monotonic() < until, exported()
        time.sleep(1)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of two good clips, one without a face and one whose row is wrong."""
    folder = tmp_path_factory.mktemp("metrics")
    write_speech(folder / "speech.wav", speech_like(0.8))
    write_clip(folder / "talk.mp4", portrait(20))
    write_clip(folder / "red.mp4", np.full((20, 96, 96, 3), (230, 20, 20), np.uint8))
    rows = [
        {"clip_id": f"{video}{n}", "video": f"{video}.mp4", "audio": "speech.wav"}
        for n, video in enumerate(("talk", "talk", "red"))
    ]
    rows.append({"clip_id": "wrong", "video": "talk.mp4", "audio": "speech.wav", "face": "nobody"})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe(model="toy:TOY", detector="embedded", preset="ultrafast")
    run(Job(manifest=folder / "pairs.jsonl", output=folder / "out", recipe=recipe, cluster=Cluster(device="cpu")))
    return str(folder / "out")


def test_prometheus_reads_what_a_run_has_done(output: str) -> None:
    awaited("latentsync_job_clips_total", 4, output=output)
    assert exported(output=output, status="ok")["latentsync_job_clips_total"] == 2
    assert exported(output=output, code="no_face")["latentsync_job_clips_total"] == 1
    assert exported(output=output, code="invalid_pair")["latentsync_job_clips_total"] == 1
    awaited("latentsync_job_clips_left", 0, output=output)
    awaited("latentsync_job_frames_total", 40, output=output)
    awaited("latentsync_job_segments", 0, output=output)
    assert exported(output=output, state="busy")["latentsync_job_device_seconds_total"] > 0
    assert exported(output=output, stage="paste")["latentsync_job_stage_seconds_total"] > 0


def test_what_is_only_found_again_was_counted_before(output: str) -> None:
    counted: list[float] = []
    told = metrics.JobMetrics(Job(manifest="m", output=output), 1)
    told._add = lambda counter, value, **tags: counted.append(value)  # pyright: ignore[reportAttributeAccessIssue]
    part = Part(clip_id="a", video="v", audio="a", stop=32, segment_count=1, generate_seconds=3.0, idle_seconds=1.0)
    told.tell(replace(part, found=True))
    assert counted == []
    told.tell(part)
    assert counted == [32, 3.0, 1.0]


def test_queues_are_told_by_stage(output: str) -> None:
    for stage in ("crop", "generate", "paste"):
        for state in ("waiting", "working"):
            awaited("latentsync_job_segments", 0, output=output, stage=stage, state=state)


def names() -> set[str]:
    """Of all metrics of a job, as Prometheus reads them."""
    defined = set(re.findall(r'(Counter|Gauge)\(\s*"(latentsync_\w+)"', Path(metrics.__file__).read_text()))
    return {f"{name}_total" if kind == "Counter" else name for kind, name in defined}


def test_the_readme_explains_all_that_is_told() -> None:
    table = (ROOT / "README.md").read_text().split("| metric | what |", 1)[1].split("\n\n", 1)[0]
    assert set(NAME.findall(table)) == names()


def test_the_dashboard_draws_all_that_is_told_and_nothing_else() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    drawn = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    drawn += [variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    assert {name for expression in drawn for name in NAME.findall(expression)} == names()
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
