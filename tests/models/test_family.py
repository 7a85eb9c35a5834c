"""A second family of models goes through everything: nothing outside a family knows LatentSync's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cutting import cut
from toy import TOY

from latentsync_ray import Cluster, ConfigError, Job, LipSync, ModelError, Pair, Recipe, assets
from latentsync_ray.driver import dub
from latentsync_ray.media.decode import read_frames
from latentsync_ray.media.source import probe_video
from latentsync_ray.models import Model, ModelInfo
from latentsync_ray.models.find import find_model, model_names
from latentsync_ray.registry import FAMILIES
from latentsync_ray.stages.plan import Plan
from latentsync_ray.types import ClipRecord

RECIPE = Recipe(model="toy:TOY", detector="embedded", crf=4, preset="ultrafast", segment_frames=48)
PAIR = Pair(clip_id="a", video=assets.demo_video(), audio=assets.demo_audio())


class ToyFamily:
    """A family of one."""

    names = ("toy",)
    hint = "put a toy.json into it"

    def find(self, name: str) -> ModelInfo | None:
        return TOY if name == "toy" or Path(name, "toy.json").exists() else None


TOYS = ToyFamily()


def green(path: Path) -> np.ndarray:
    """How much greener than red the greenest of each frame is, (T,)."""
    index = probe_video(path, max_pixels=10**8, max_seconds=60)
    rows = np.arange(len(index), dtype=np.int32)
    frames = [picture.rgb().astype(int) for _, picture in read_frames(path, index, rows)]
    return np.array([np.percentile(frame[..., 1] - frame[..., 0], 99.5) for frame in frames])


def test_a_clip_of_another_family(tmp_path: Path) -> None:
    dubber = LipSync(tmp_path, recipe=RECIPE, device="cpu")
    model: Model = dubber.model
    assert model.info is not None
    record = dubber(PAIR)
    assert record.ok, record.error
    assert (record.checkpoint, record.frames_without_face) == ("0" * 64, 0)
    plan = Plan(RECIPE, str(tmp_path))(PAIR)
    assert (np.diff(plan.segment_stops[:-1]) == 50).all(), "48 frames are ten windows of five"
    crops = cut(plan, RECIPE)
    assert crops[0].faces.shape == (50, 48, 48, 3)
    heard = np.concatenate([each.speech[0, :, 0] for each in crops])
    assert np.corrcoef(heard, green(Path(str(record.output))))[0, 1] > 0.9


def test_ray_makes_the_same_of_it(tmp_path: Path, ray_cluster: None) -> None:
    made = {}
    for runner in ("local", "ray"):
        job = Job(manifest="none", output=tmp_path / runner, recipe=RECIPE, cluster=Cluster(runner=runner, device="cpu"))
        records = [result for result in dub([PAIR], job) if isinstance(result, ClipRecord)]
        assert [record.status for record in records] == ["ok"], records
        made[runner] = records[0].sha256
    assert made["local"] == made["ray"]


def test_families_are_asked_for_names_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "toys", f"{__name__}:TOYS")
    assert model_names()[-1] == "toy"
    assert find_model("toy") is TOY
    assert find_model("nano").name == "nano"
    with pytest.raises(ModelError, match=r"does not say what it is: put a latentsync\.json .*; or put a toy\.json into it"):
        find_model(str(tmp_path))
    (tmp_path / "toy.json").touch()
    assert find_model(str(tmp_path)) is TOY
    with pytest.raises(ConfigError, match=r"no model 'toys': neither a folder nor one of latentsync-1\.6.*, toy$"):
        find_model("toys")


def test_a_model_of_ones_own_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"model 'toy:NOTHING' cannot be imported"):
        find_model("toy:NOTHING")


@pytest.mark.parametrize("name", ["./models:v2", "../x:y", ":x", "hf:/a/b", "gs:/bucket/m", "s3:", "/data/models:v2"])
def test_what_is_no_name_of_a_module_is_no_model(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no model .*: neither a folder nor one of"):
        find_model(name)


def test_what_is_no_model_is_told_before_work_starts() -> None:
    with pytest.raises(
        ConfigError, match=r"'os:path' is no ModelInfo .*: it has no template, window, hear, flops, memory, load"
    ):
        find_model("os:path")
