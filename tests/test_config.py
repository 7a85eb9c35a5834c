from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from latentsync_ray.config import Cluster, Job, Recipe
from latentsync_ray.errors import ConfigError
from latentsync_ray.job_file import build_job, load_job
from latentsync_ray.marking import Label, Require, Signing
from latentsync_ray.recipe import Work, row_settings

MINIMAL = "manifest: pairs.csv\noutput: out\n"


def job(tmp_path: Path, text: str = MINIMAL, *overrides: str) -> Job:
    (tmp_path / "job.yaml").write_text(text)
    return load_job(tmp_path / "job.yaml", *overrides)


def test_defaults(tmp_path):
    read = job(tmp_path)
    assert (read.manifest, read.output, read.sink, read.failure_budget) == ("pairs.csv", str(Path("out").absolute()), "mp4", 0)
    assert read.recipe == Recipe()
    assert read.cluster == Cluster()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("2h", 7200.0), ("1.5 h", 5400.0), ("30m", 1800.0), ("45s", 45.0), ("1d", 86400.0)]
)
def test_times_have_units(tmp_path, text, seconds):
    assert job(tmp_path, MINIMAL, f"time_limit={text}").time_limit == seconds


def test_values_and_overrides(tmp_path):
    text = MINIMAL + "recipe:\n  steps: 30\n  fps: source\ncluster: {generate_workers: [1, 4]}\n"
    read = job(tmp_path, text, "recipe.steps=10", "recipe.loop_mode=loop", "cluster.generate_gpus=0.5", "output=gs://b/out")
    assert (read.recipe.steps, read.recipe.fps, read.recipe.loop_mode) == (10, "source", "loop")
    assert (read.cluster.generate_workers, read.cluster.generate_gpus, read.output) == ((1, 4), 0.5, "gs://b/out")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("manifest: m\noutput: o\nbogus: 1", "unknown key bogus; known here: manifest, output, sink, recipe"),
        (MINIMAL + "recipe: {stpes: 1}", r"unknown key recipe\.stpes; known here: model, steps"),
        (MINIMAL + "cluster: {gpus: 1}", r"unknown key cluster\.gpus; known here: runner, address"),
        (MINIMAL + "cluster: {sync_gpus: 1}", r"unknown key cluster\.sync_gpus; it is called generate_gpus now"),
        ("output: o", "manifest is missing"),
        ("manifest: ' '\noutput: o", "manifest: value error, must not be empty"),
        (MINIMAL + "recipe: {steps: 0}", r"recipe\.steps: input should be greater than or equal to 1"),
        (MINIMAL + "recipe: {guidance_scale: 7}", r"recipe\.guidance_scale: input should be less than or equal to 2"),
        (MINIMAL + "recipe: {segment_frames: 20}", r"recipe\.segment_frames: .*greater than or equal to 48"),
        (MINIMAL + "recipe: {loop_mode: bounce}", r"recipe\.loop_mode: input should be 'pingpong' or 'loop'"),
        (MINIMAL + "recipe: {fps: 0}", r"recipe\.fps"),
        (MINIMAL + "failure_budget: 2", "failure_budget"),
        (MINIMAL + "time_limit: 2 weeks", r"time_limit: use seconds, or text such as 90m, 2h or 1d"),
        (MINIMAL + "time_limit: -1", r"time_limit: input should be greater than 0"),
        *(
            (
                MINIMAL + f"recipe: {{micro_batch: {each}}}",
                r"recipe\.micro_batch: use auto, or a whole number from 1 to 64, not",
            )
            for each in ("three", "0", "65", "1.5", "true")
        ),
        (MINIMAL + "cluster: {device_memory_gb: .inf}", r"cluster\.device_memory_gb: input should be a finite number"),
        (MINIMAL + "limit: 0", r"limit: input should be greater than or equal to 1"),
        ("- a list", "must hold a mapping with the keys manifest, output"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_mistakes_name_their_place(tmp_path, text, why):
    with pytest.raises(ConfigError, match=why) as caught:
        job(tmp_path, text)
    assert "job.yaml" in str(caught.value)


def test_all_mistakes_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"recipe\.steps.*cluster\.passes"):
        job(tmp_path, MINIMAL + "recipe: {steps: 0}\ncluster: {passes: 0}")


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("recipe.steps", "not of the form key=value"),
        ("=5", "not of the form key=value"),
        ("recipe.step=5", r"unknown key recipe\.step"),
        ("manifest.x=5", "manifest is a value, not a section"),
        ("recipe.steps=[", "not valid YAML"),
    ],
)
def test_wrong_overrides(tmp_path, override, why):
    with pytest.raises(ConfigError, match=why):
        job(tmp_path, MINIMAL, override)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("limit=0",), "^overrides: limit: input should be greater than or equal to 1, not 0$"),
        (("recipe.stepz=1",), "^overrides: unknown key recipe.stepz; known here: "),
        (("cluster={devise: cpu}",), "^overrides: unknown key cluster.devise; known here: "),
        (("prune=maybe", "recipe.crf=18"), r"^\S+job.yaml: recipe.steps: .*, not 0; overrides: prune: input should be "),
        (("budget.dollars=5",), r"^\S+job.yaml and overrides: budget: dollars needs dollars_per_hour"),
        (("clip_name={video_stem}",), """needs quotes of its own within the shell's: 'clip_name="{...}...\"'$"""),
        (
            ("clip_name={video_stem}/{language}",),
            """not valid YAML: .*; text that .* quotes of its own .*: 'clip_name="{...}""",
        ),
    ],
)
def test_an_error_says_whether_the_file_or_an_override_is_wrong(tmp_path, overrides, told):
    steps = 0 if "prune=maybe" in overrides else 1
    with pytest.raises(ConfigError, match=told):
        job(tmp_path, MINIMAL + f"recipe: {{steps: {steps}}}", *overrides)
    assert job(tmp_path, MINIMAL, 'clip_name="{video_stem}/{language}"').clip_name == "{video_stem}/{language}"


def test_a_job_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the job file .*none\.yaml: No such file"):
        load_job(tmp_path / "none.yaml")


def test_a_job_file_that_is_no_text(tmp_path):
    (tmp_path / "job.yaml").write_bytes("output: dübbed".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"job\.yaml is not a text in UTF-8.* at byte 9"):
        load_job(tmp_path / "job.yaml")


def test_building_from_a_mapping_leaves_it_as_it_is():
    tree = {"manifest": "m", "output": "o", "recipe": {"steps": 3}}
    assert build_job(tree, "recipe.steps=4", "cluster.passes=2", source="here").recipe.steps == 4
    assert tree == {"manifest": "m", "output": "o", "recipe": {"steps": 3}}
    with pytest.raises(ConfigError, match=r"^here: "):
        build_job({}, source="here")


OTHER = {
    "model": "latentsync-1.5",
    "steps": 21,
    "guidance_scale": 1.5,
    "seed": 1,
    "cache_interval": 3,
    "dtype": "float32",
    "compile": True,
    "micro_batch": 2,
    "cpu_threads": 4,
    "detector": "insightface",
    "face": "largest",
    "paste": "crop",
    "label": {"text": "AI dub"},
    "watermark": "my:Mark",
    "parity": True,
    "loop_mode": "loop",
    "fps": 30,
    "fps_rule": "cli",
    "segment_frames": 64,
    "crf": 20,
    "preset": "fast",
    "max_pixels": 100,
    "max_seconds": 5,
}


@pytest.mark.parametrize("name", Recipe.model_fields)
def test_every_field_of_the_recipe_but_its_limits_changes_its_fingerprint(name):
    changed = Recipe.model_validate({name: OTHER[name]})
    assert (changed.fingerprint() == Recipe().fingerprint()) == (name in ("max_pixels", "max_seconds"))
    assert changed.fingerprint() == Recipe.model_validate({name: OTHER[name]}).fingerprint()
    assert len(changed.fingerprint()) == 16


def test_each_kind_of_work_has_a_fingerprint_of_its_own():
    same = Recipe()
    for name, outlived in (("detector", []), ("steps", ["faces"]), ("crf", ["faces", "generation"])):
        changed = Recipe.model_validate({name: OTHER[name]})
        kept = [work for work in get_args(Work) if changed.fingerprint(work) == same.fingerprint(work)]
        assert kept == outlived, name


def test_the_number_of_a_face_may_come_as_a_number():
    assert Recipe.model_validate({"face": 1}).face == Recipe.model_validate({"face": 1.0}).face == "1"
    assert row_settings({"face": 0}) == {"face": "0"}
    for wrong in ("left", "1,2,3", "-1", 1.5, True):
        with pytest.raises(ValidationError):
            Recipe.model_validate({"face": wrong})


def test_recipes_cannot_be_changed():
    with pytest.raises(ValidationError):
        Recipe().steps = 5  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("model", [Recipe, Cluster, Job, Require, Signing, Label])
def test_every_field_is_explained(model):
    self_evident = {"sink", "recipe", "cluster"}
    assert {name for name, field in model.model_fields.items() if not field.description} <= self_evident


def test_frame_rate():
    assert Recipe().frame_rate(Fraction(30000, 1001)) == 25
    assert Recipe(fps="source").frame_rate(Fraction(30000, 1001)) == Fraction(30000, 1001)


def test_partition_by_is_a_name_or_several() -> None:
    base = {"manifest": "m", "output": "/o"}
    assert Job.model_validate({**base, "partition_by": "language"}).partition_by == ("language",)
    assert Job.model_validate({**base, "partition_by": ["language", "show"]}).partition_by == ("language", "show")
    assert Job.model_validate({**base, "partition_by": None}).partition_by == ()
    for wrong in (7, [""], [1], ["a", "a"]):
        with pytest.raises(ValueError, match="partition_by"):
            Job.model_validate({**base, "partition_by": wrong})
