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


Series = dict[tuple[str, str], float]
"""Name and tags -> value."""


def read_series() -> Series:
    """What Prometheus reads from this machine now."""
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found = (re.fullmatch(r"ray_(latentsync_\w+)\{(.*)\} (\S+)", line) for line in lines)
    return {(each[1], each[2]): float(each[3]) for each in found if each}


def summed(series: Series, **tags: str) -> dict[str, float]:
    """Sums by name of the series with these tags."""
    found: dict[str, float] = {}
    for (name, said), value in series.items():
        if all(f'{tag}="{wanted}"' in said for tag, wanted in tags.items()):
            found[name] = found.get(name, 0) + value
    return found


def exported(**tags: str) -> dict[str, float]:
    """The sums of what Prometheus reads now."""
    return summed(read_series(), **tags)


ENDED = {"latentsync_job_clips_total": 4, "latentsync_job_clips_left": 0, "latentsync_job_segments": 0}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Series]:
    """The output, and what was read in the end: Ray sends on every ten seconds, and a gauge that is not set again just once.

    A run of two good clips, one without a face and one whose row is wrong."""
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
    output, seen, until = str(folder / "out"), read_series(), time.monotonic() + 90
    while any(summed(seen, output=output).get(name) != value for name, value in ENDED.items()):
        assert time.monotonic() < until, summed(seen, output=output)
        time.sleep(0.5)
        seen |= read_series()
    return output, seen


@pytest.fixture(scope="module")
def output(told: tuple[str, Series]) -> str:
    return told[0]


def test_prometheus_reads_what_a_run_has_done(told: tuple[str, Series]) -> None:
    output, seen = told
    assert summed(seen, output=output, status="ok")["latentsync_job_clips_total"] == 2
    assert summed(seen, output=output, code="no_face")["latentsync_job_clips_total"] == 1
    assert summed(seen, output=output, code="invalid_pair")["latentsync_job_clips_total"] == 1
    assert summed(seen, output=output)["latentsync_job_frames_total"] == 40
    assert summed(seen, output=output, state="busy")["latentsync_job_device_seconds_total"] > 0
    assert summed(seen, output=output, stage="paste")["latentsync_job_stage_seconds_total"] > 0


def test_what_is_only_found_again_was_counted_before(output: str) -> None:
    counted: list[float] = []
    told = metrics.JobMetrics(Job(manifest="m", output=output), 1)
    told._add = lambda counter, value, **tags: counted.append(value)  # pyright: ignore[reportAttributeAccessIssue]
    part = Part(clip_id="a", video="v", audio="a", stop=32, segment_count=1, generate_seconds=3.0, idle_seconds=1.0)
    told.tell(replace(part, found=True))
    assert counted == []
    told.tell(part)
    assert counted == [32, 3.0, 1.0]


def test_queues_are_told_by_stage(told: tuple[str, Series]) -> None:
    output, seen = told
    for stage in ("crop", "generate", "paste"):
        for state in ("waiting", "working"):
            assert "latentsync_job_segments" in summed(seen, output=output, stage=stage, state=state)


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
