"""The command line: what a newcomer reads, what is handed to the library, and the exit codes."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import ray
from eight_pairs import portrait
from make_clips import write_clip
from ray._private import worker as ray_worker

import latentsync_ray
from latentsync_ray import Cluster, assets, filesystems, storage
from latentsync_ray.assets import demo_video
from latentsync_ray.cli import main
from latentsync_ray.config import Job, Recipe
from latentsync_ray.driver import Summary
from latentsync_ray.errors import DeviceLost, StorageUnavailable, WeightsNotFound
from latentsync_ray.job_file import load_job
from latentsync_ray.pipeline.cluster import connect
from latentsync_ray.preflight import resolved
from latentsync_ray.progress import PlainProgress, RichProgress
from latentsync_ray.report import Course, Example, Failures, Language, OutOfSync, Report, SlowClip
from latentsync_ray.types import ClipRecord

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ["demo", "init", "lipsync", "run", "models", "report"]
RECORD = ClipRecord(
    clip_id="out", video="v", audio="a", status="ok", output="out.mp4", frames=150, fps=25, duration=6, width=384, height=384
)


def call(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Terminal output that does not wrap in the middle of what is looked for."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")


@pytest.fixture
def lipsync_calls(monkeypatch) -> list[dict[str, Any]]:
    """Calls of ``latentsync_ray.local.lipsync``, which answers RECORD after some frames."""
    calls = []

    def lipsync(video, audio, output, **options):
        calls.append({"video": video, "audio": audio, "output": output, **options})
        options["on_phase"]("dubbing 32 frames")
        options["on_frames"](32)
        return RECORD

    monkeypatch.setattr("latentsync_ray.local.lipsync", lipsync)
    return calls


def summary(**changes: Any) -> Summary:
    values = {
        "output": "o",
        "total": 12,
        "done_before": 3,
        "failed_before": 0,
        "ok": 8,
        "failed": 1,
        "bugs": 0,
        "left": 0,
        "changed": 0,
        "below_quality": 0,
        "kept": 0,
        "removed": 0,
        "not_in_manifest": 0,
        "dropped": 0,
        "stopped": "",
        "frames": 3600,
        "seconds": 312.0,
        "speed": "model on cpu x86_64: 99% busy",
        "exit_code": 0,
    }
    return Summary(**{**values, **changes})


def test_help_lists_every_command_and_its_arguments(capsys):
    assert call("--help") == 0
    listed = capsys.readouterr().out
    for command in COMMANDS:
        assert f" {command} " in listed
        assert call(command, "--help") == 0
        assert "Usage:" in capsys.readouterr().out


def test_version(capsys):
    assert call("--version") == 0
    assert capsys.readouterr().out.strip() == latentsync_ray.__version__


def test_help_loads_nothing_heavy():
    heavy = {"torch", "ray", "av", "cv2", "diffusers", "pyarrow"}
    code = f"import sys, latentsync_ray.cli; sys.exit(', '.join({heavy} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stderr.strip() == "", "these were imported, or it broke"


def test_lipsync_without_options_uses_the_recipe_defaults(lipsync_calls, capsys):
    assert call("lipsync", "v.mp4", "a.wav", "out.mp4") == 0
    (made,) = lipsync_calls
    assert (made["video"], made["audio"], made["output"]) == ("v.mp4", "a.wav", "out.mp4")
    assert made["recipe"] == resolved(Recipe())
    assert made["device"] == "auto"
    shown = capsys.readouterr()
    assert shown.out.strip() == "out.mp4  150 frames, 6.00 s at 25 fps, 384 x 384"
    assert "1/1 clips, 32 frames" in shown.err


def test_lipsync_hands_every_option_to_the_recipe(lipsync_calls):
    options = (
        "--model latentsync-1.5 --steps 7 --guidance-scale 1.5 --seed 3 "
        "--loop-mode loop --fps source --detector insightface --paste crop"
    )
    assert (
        call("lipsync", "v", "a", "o.mp4", *options.split(), "--device", "cpu", "--set", "crf=14", "--set", "preset=fast") == 0
    )
    assert lipsync_calls[0]["device"] == "cpu"
    assert lipsync_calls[0]["recipe"] == Recipe(
        model="latentsync-1.5",
        steps=7,
        guidance_scale=1.5,
        seed=3,
        loop_mode="loop",
        fps="source",
        detector="insightface",
        paste="crop",
        crf=14,
        preset="fast",
    )


def test_failed_clip_ends_with_one(monkeypatch, capsys):
    failed = ClipRecord(clip_id="out", video="v", audio="a", error_code="no_face", error="nobody is in the picture")
    monkeypatch.setattr("latentsync_ray.local.lipsync", lambda *_, **__: failed)
    assert call("lipsync", "v", "a", "o.mp4") == 1
    shown = capsys.readouterr()
    assert "no_face: nobody is in the picture" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lipsync", "v", "a", "o.mp4", "--steps", "0"], "error: --steps: input should be greater than or equal to 1"),
        (["lipsync", "v", "a", "o.mp4", "--device", "tpu"], "error: --device: input should be 'auto', 'cuda', 'mps' or 'cpu'"),
        (
            ["lipsync", "v", "a", "o.mp4", "--steps", "0", "--loop-mode", "x"],
            "; --loop-mode: input should be 'pingpong' or 'loop'",
        ),
        (["lipsync", "v", "a", "o.mp4", "--set", "crf=99"], "recipe.crf: input should be less than or equal to 51"),
        (["lipsync", "v", "a", "o.mp4", "--set", "crff=3"], "unknown key recipe.crff; known here: model, steps"),
        (["lipsync", "v", "a", "o.mp4", "--set", "crf"], "not of the form key=value"),
        (["lipsync", "v", "a", "o.mp4", "--set", "model=["], "the value is not valid YAML"),
        (["lipsync", "v", "a", ""], "error: OUT: value error, must not be empty"),
        (["lipsync", "v", "a", "out.avi"], "out.avi would hold an MP4: let its name end in .mp4 or .m4v"),
        (["lipsync", "v", "a", str(ROOT)], "is a folder; name the file to write to"),
        (["init", "nothing"], "there is no example 'nothing'; known: demo, gcs_h100, languages, local, serve"),
        (["run", "nowhere.yaml"], "cannot read the job file nowhere.yaml"),
        (["run", str(ROOT / "configs/demo.yaml"), "recipe.stepz=3"], "unknown key recipe.stepz"),
    ],
)
def test_wrong_arguments_end_with_two_and_one_line(arguments, message, capsys, lipsync_calls):
    assert call(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not lipsync_calls


@pytest.mark.parametrize("arguments", [["frobnicate"], ["lipsync", "v", "a"], ["lipsync", "v", "a", "o", "--stepz", "3"]])
def test_unknown_commands_and_options_end_with_two(arguments, capsys):
    assert call(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(WeightsNotFound("[512] get them there"), 2), (DeviceLost("gone"), 1), (KeyboardInterrupt(), 130)]
)
def test_errors_become_exit_codes(error, code, monkeypatch, capsys):
    def lipsync(*_, **__):
        raise error

    monkeypatch.setattr("latentsync_ray.local.lipsync", lipsync)
    assert call("lipsync", "v", "a", "o.mp4") == code
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert str(error) in shown, "and not taken for markup"


@pytest.mark.parametrize("remote", [False, True])
def test_an_existing_output_is_kept_unless_forced(remote, lipsync_calls, tmp_path, capsys):
    target = "memory://shell-test/out.mp4" if remote else str(tmp_path / "out.mp4")
    storage.write_bytes(target, b"precious")
    try:
        assert call("lipsync", "v.mp4", "a.wav", target) == 2
        shown = capsys.readouterr().err
        assert shown.startswith(f"error: {target} exists already")
        assert "--force" in shown
        assert shown.count("\n") == 1
        assert not lipsync_calls
        assert call("lipsync", "v.mp4", "a.wav", target, "--force") == 0
        assert lipsync_calls[0]["overwrite"] is True
    finally:
        storage.delete([target])


def test_a_device_that_is_not_there_is_told_for_every_caller(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    options = ["--model", "tiny-random", "--device", "cuda"]
    assert call("lipsync", str(demo_video()), str(demo_video()), str(tmp_path / "o.mp4"), *options) == 2
    shown = capsys.readouterr().err
    assert "error: there is no cuda device on this machine; as the device, choose auto or cpu\n" in shown
    assert "cluster" not in shown


@pytest.mark.parametrize("on_terminal", [False, True])
def test_a_failed_clip_tells_its_reason_once(on_terminal, monkeypatch, capsys):
    failed = ClipRecord(clip_id="out", video="v", audio="a", error_code="no_face", error="nobody is in the picture")
    monkeypatch.setattr("latentsync_ray.local.lipsync", lambda *_, **__: failed)
    monkeypatch.setattr("latentsync_ray.cli.dub.make_progress", RichProgress if on_terminal else PlainProgress)
    assert call("lipsync", "v", "a", "o.mp4") == 1
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("nobody is in the picture") == 1
    assert (shown.out + shown.err).count("1/1 clips") <= 1


def test_tables_in_a_pipe_keep_a_row_on_a_line(monkeypatch, capsys):
    """However narrow the terminal was."""
    monkeypatch.setenv("COLUMNS", "40")
    message = "/data/a/very/long/path/" * 20 + "clip.mp4:\nnobody"
    failures = [Failures(code="no_face", count=2, transient=False, examples=[Example(clip_id="[1]", message=message)])]
    monkeypatch.setattr("latentsync_ray.report.summarise", lambda output, peak: replace(REPORT, failures=failures))
    monkeypatch.setattr("latentsync_ray.report.contact_sheet", lambda *arguments, **options: None)
    monkeypatch.setattr("latentsync_ray.report.faces_sheet", lambda *arguments, **options: 0)
    assert call("report", "memory://o") == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("no_face")]
    assert row.endswith("[1]: " + message.replace("\n", " "))
    assert lines == [line.rstrip() for line in lines], "no blanks that fill a column"


def test_shell_completion_can_be_shown(monkeypatch, capsys):
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    assert call("--show-completion") == 0
    assert "_COMPLETE=complete_bash" in capsys.readouterr().out


def test_init_lists_what_there_is(capsys):
    assert call("init") == 0
    listed = capsys.readouterr().out
    for name in ("demo", "gcs_h100", "languages", "local", "serve"):
        assert re.search(rf"^{name} +[A-Z].*[^,:]$", listed, re.MULTILINE)


@pytest.mark.parametrize("name", ["demo", "gcs_h100", "languages", "local"])
def test_init_writes_a_job_that_loads_from_anywhere(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("init", name) == 0
    assert f"latentsync-ray run {name}.yaml" in capsys.readouterr().out
    job, original = load_job(f"{name}.yaml"), load_job(ROOT / "configs" / f"{name}.yaml")
    manifest = str(demo_video().parent) if name == "demo" else original.manifest
    assert job.recipe == original.recipe
    assert job.manifest == manifest
    assert "configs/" not in (tmp_path / f"{name}.yaml").read_text()


def test_init_writes_settings_for_the_server(tmp_path, capsys):
    settings = pytest.importorskip("latentsync_ray.serve.settings", reason="needs the extra serve")
    assert call("init", "serve", str(tmp_path / "new" / "mine.yaml")) == 0
    assert "latentsync-ray serve" in capsys.readouterr().out
    assert settings.load_settings(tmp_path / "new" / "mine.yaml").recipe.model == "latentsync-1.6"


def test_init_replaces_nothing_unless_forced(tmp_path, capsys):
    (tmp_path / "demo.yaml").write_text("mine")
    assert call("init", "demo", str(tmp_path)) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "demo.yaml").read_text() == "mine"
    assert call("init", "demo", str(tmp_path), "--force") == 0
    assert load_job(tmp_path / "demo.yaml").recipe.model == "nano"


def test_bugs_keep_their_traceback(monkeypatch):
    def lipsync(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("latentsync_ray.local.lipsync", lipsync)
    with pytest.raises(ZeroDivisionError):
        main(["lipsync", "v", "a", "o.mp4"])


def test_a_traceback_shows_no_secret(monkeypatch, capsys):
    def lipsync(*_, **__):
        raise ZeroDivisionError("over https://me:S3CRET@h.example/a?sig=S3CRET")

    monkeypatch.setattr("latentsync_ray.local.lipsync", lipsync)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(ZeroDivisionError) as caught:
        main(["lipsync", "v", "a", "o.mp4"])
    sys.excepthook(caught.type, caught.value, caught.tb)
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "ZeroDivisionError: over https://***@h.example/a?***" in shown
    assert "S3CRET" not in shown


@pytest.mark.parametrize("exit_code", [0, 1])
def test_run_loads_the_job_and_sums_up(exit_code, monkeypatch, capsys):
    jobs: list[Job] = []
    monkeypatch.setattr("latentsync_ray.driver.run", lambda job, progress: jobs.append(job) or summary(exit_code=exit_code))
    config = str(ROOT / "configs" / "demo.yaml")
    assert call("run", config, "recipe.steps=3", "output=elsewhere") == exit_code
    assert jobs == [load_job(config, "recipe.steps=3", "output=elsewhere")]
    shown = capsys.readouterr().out
    assert "11 of 12 clips done (3 before), 1 failed" in shown
    assert "3600 frames in 0:05:12, 11.5 frames/s\nmodel on cpu x86_64: 99% busy\n" in shown


def test_run_takes_limits_and_gives_json(monkeypatch, capsys):
    jobs: list[tuple[Job, Any]] = []
    monkeypatch.setattr(
        "latentsync_ray.driver.run", lambda job, progress: jobs.append((job, progress)) or summary(left=4, exit_code=3)
    )
    config = str(ROOT / "configs" / "demo.yaml")
    assert call("run", config, "--limit", "5", "--time-limit", "90m", "--json", "--quiet") == 3
    ((job, progress),) = jobs
    assert (job.limit, job.time_limit, progress) == (5, 5400.0, None)
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {**asdict(summary()), "left": 4, "exit_code": 3}
    assert shown.out.count("\n") == 1
    assert shown.err == ""
    assert call("run", config, "--quiet") == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "exit code 3: the time limit left 4 clips; run the same command again to continue\n"
    assert call("run", config) == 3
    assert "exit code 3: the time limit left 4 clips; run the same command again to continue\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (StorageUnavailable("the disk of /out is full"), "the disk of /out is full", 1),
        (WeightsNotFound("no weights"), "no weights", 2),
        (ZeroDivisionError("of https://me:S3CRET@h.example/a"), "ZeroDivisionError: of https://***@h.example/a", 1),
    ],
)
def test_whoever_asked_for_json_gets_it_when_a_run_breaks_off(error, told, code, monkeypatch, capsys):
    def run(*_, **__):
        raise error

    monkeypatch.setattr("latentsync_ray.driver.run", run)
    config = str(ROOT / "configs" / "demo.yaml")
    with pytest.raises((SystemExit, ZeroDivisionError)):
        main(["run", config, "--json"])
    assert json.loads(capsys.readouterr().out) == {"error": told, "exit_code": code}


@pytest.mark.parametrize("command", [["run"], ["plan"], ["run", "--dry-run"], ["report", "--config"]])
def test_a_wrong_job_is_told_as_json_too(command, capsys):
    assert call(*command, "nowhere.yaml", "--json") == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"error": shown.err.removeprefix("error: ").strip(), "exit_code": 2}
    assert "cannot read the job file nowhere.yaml" in shown.out


@pytest.mark.parametrize("started_before", [False, True])
def test_a_ray_that_we_start_says_nothing_where_results_go(started_before, monkeypatch):
    monkeypatch.setattr(ray_worker, "_worker_logs_enabled", True)
    monkeypatch.setattr(ray, "is_initialized", lambda: started_before)
    monkeypatch.setattr(ray, "init", lambda **options: None)
    connect(Cluster())
    assert ray_worker._worker_logs_enabled is started_before


def test_a_summary_shows_no_login_of_the_output(monkeypatch, capsys):
    def run(job, progress):
        return summary(output="s3://me:S3CRET@bucket/dubbed", ok=1)

    monkeypatch.setattr("latentsync_ray.driver.run", run)
    for options in (["--json"], []):
        assert call("run", str(ROOT / "configs" / "demo.yaml"), *options) == 0
        assert "s3://***@bucket/dubbed" in (shown := capsys.readouterr().out)
        assert "S3CRET" not in shown


def test_verbose_tells_each_segment_and_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "v.mp4", portrait(30))
    shutil.copy(assets.demo_audio(), tmp_path / "a.wav")
    (tmp_path / "pairs.csv").write_text("clip_id,video,audio\nanna,v.mp4,a.wav\n")
    recipe = "recipe: {model: 'toy:TOY', detector: embedded, preset: ultrafast}"
    text = f"manifest: {tmp_path}/pairs.csv\noutput: {tmp_path}/out\n{recipe}\ncluster: {{runner: local}}\n"
    (tmp_path / "job.yaml").write_text(text)
    level = logging.getLogger("latentsync_ray").level
    assert call("run", str(tmp_path / "job.yaml"), "--verbose") == 0
    told = capsys.readouterr().err
    assert re.search(r"segment 1 of 2 of clip anna: \d+\.\d s on the device", told)
    assert "clip anna: clips/anna.mp4" in told
    assert logging.getLogger("latentsync_ray").level == level


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        (
            {"failed": 1, "failed_before": 2, "exit_code": 1},
            "exit code 1: 3 of 12 clips have failed, now or before; failure_budget allows 10%. Correct or drop their rows, or "
            "raise failure_budget",
        ),
        (
            {"failed": 2, "stopped": "stop_at_failed", "exit_code": 1},
            "exit code 1: stopped after 2 clips had failed (stop_at_failed: 2)",
        ),
        (
            {"ok": 0, "failed": 0, "frames": 0, "left": 9, "stopped": "time_limit", "exit_code": 3},
            "exit code 3: the time limit ended before a first segment was made, and left 9 clips; raise it",
        ),
    ],
)
def test_an_exit_code_is_given_its_reason(ended: dict[str, Any], told: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr("latentsync_ray.driver.run", lambda job, progress: summary(**ended))
    given = str(ROOT / "configs" / "demo.yaml"), "failure_budget=0.1", "stop_at_failed=2"
    assert call("run", *given, "--quiet") == ended["exit_code"]
    assert capsys.readouterr().err == f"{told}\n"
    assert call("run", *given) == ended["exit_code"]
    assert f"{told}\n" in capsys.readouterr().out


def test_what_a_summary_points_to_can_be_pasted(monkeypatch, capsys) -> None:
    config = str(ROOT / "configs" / "demo.yaml")
    nothing = dict.fromkeys(("done_before", "ok", "failed", "frames"), 0)
    for ended, told in (({"ok": 1}, "more: latentsync-ray report '/my out'\n"), (nothing, None)):
        monkeypatch.setattr("latentsync_ray.driver.run", lambda job, progress, ended=ended: summary(output="/my out", **ended))
        call("run", config)
        shown = capsys.readouterr().out
        assert told in shown if told else "more:" not in shown


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_wrong_option_is_told_as_one(command: str, capsys) -> None:
    config = str(ROOT / "configs" / "demo.yaml")
    assert call(command, config, "--retry", "no_fase") == 2
    assert "error: --retry: use failed, missing, all, unreadable_video" in capsys.readouterr().err
    assert call(command, config, "retry=no_fase") == 2
    assert "error: overrides: retry: use failed" in capsys.readouterr().err


def test_what_a_limit_leaves_is_no_error(monkeypatch, capsys):
    monkeypatch.setattr("latentsync_ray.driver.run", lambda job, progress: summary(left=1))
    assert call("run", str(ROOT / "configs" / "demo.yaml"), "--limit", "1") == 0
    assert "left for another run: 1 clip; run the same command again to continue\n" in capsys.readouterr().out


def test_demo_runs_the_shipped_pair_and_lists_what_it_wrote(monkeypatch, tmp_path, capsys):
    jobs: list[Job] = []

    def run(job, progress):
        jobs.append(job)
        for name in ("clips/demo.mp4", "metadata/part.parquet"):
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).write_bytes(bytes(2_000_000))
        return summary(total=1, done_before=0, ok=1, failed=0)

    monkeypatch.setattr("latentsync_ray.cli.terminal.OUT._width", 300)  # temporary folders have long names
    monkeypatch.setattr("latentsync_ray.driver.run", run)
    monkeypatch.setattr("latentsync_ray.report.contact_sheet", lambda output, png: png.write_bytes(bytes(3000)))
    assert call("demo", "--output", str(tmp_path), "recipe.seed=7") == 0
    assert (jobs[0].recipe.model, jobs[0].recipe.seed, jobs[0].output) == ("nano", 7, str(tmp_path))
    assert demo_video().is_relative_to(jobs[0].manifest)
    shown = capsys.readouterr().out
    assert "the model that comes with the package" in shown
    for name, kilobytes in (("clips/demo.mp4", "2.0 MB"), ("metadata", "2.0 MB"), ("before-after.png", "3 kB")):
        assert re.search(rf"{re.escape(str(tmp_path / name))} +{kilobytes}", shown)


def test_demo_that_fails_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("latentsync_ray.driver.run", lambda job, progress: summary(exit_code=1))
    assert call("demo", "--output", str(tmp_path)) == 1


REPORT = Report(
    output="o",
    clips=12,
    ok=10,
    failed=2,
    first_finished_at=datetime(2026, 11, 28, 14, 59, 59, 900_000, UTC),
    last_finished_at=datetime(2026, 11, 28, 15, 10, 5, tzinfo=UTC),
    failures=[Failures(code="no_face", count=2, transient=False, examples=[Example(clip_id="[1]", message="nobody")])],
    frames=3600,
    frames_without_face=4,
    output_seconds=144,
    bytes=12_300_000,
    stage_seconds={"plan": 0, "generate": 360},
    slowest=[SlowClip(clip_id="[2]", seconds=61, frames=300)],
    least_in_sync=[OutOfSync(clip_id="[3]", sync_score=-0.125, sync_offset_ms=-40.0, frames=250)],
    worst=[],
    languages=[
        Language(language="[de]", clips=9, failed=2, frames=3000, seconds=120.0),
        Language(language=None, clips=3, failed=0, frames=600, seconds=24.0),
    ],
    course=Course(
        start=datetime(2026, 11, 28, 14, 50, tzinfo=UTC), bin_seconds=900, frames=[600, 3000], ok=[2, 8], failed=[0, 2]
    ),
    cost=0.61,
    speed="NVIDIA A100: 93% busy",
)


def test_report_shows_the_numbers_and_draws_the_sheet(monkeypatch, tmp_path, capsys):
    drawn = []
    monkeypatch.setattr("latentsync_ray.report.summarise", lambda output, peak: REPORT)
    monkeypatch.setattr("latentsync_ray.report.contact_sheet", lambda *arguments, **options: drawn.append((arguments, options)))
    monkeypatch.setattr(
        "latentsync_ray.report.faces_sheet", lambda *arguments, **options: drawn.append((arguments, options)) or 1
    )
    assert call("report", "o", "--sheet", str(tmp_path / "s.png"), "--rows", "3") == 0
    assert drawn == [(("o", tmp_path / name), {"rows": 3}) for name in ("s.png", "s-faces.png")]
    shown = capsys.readouterr().out
    for expected in (
        "10 of 12 clips ok, 2 failed  o",
        "3600 frames, 0:02:24 of video, 12.3 MB",
        r"\$0.6100 by the server.s tariff",
        "4 frames in which no face got the speech",
        r"no_face +2 +no +\[1\]: nobody",
        r"plan +0.0 +-",
        r"generate +360.0 +10.0",
        "NVIDIA A100: 93% busy",
        r"\[2\] +0:01:01 +300",
        "finished from 2026-11-28 14:59:59 to 2026-11-28 15:10:05 UTC",
        r"\[3\] +-0.1[23] +-40 ms +250",
        r"\[de\] +9 +2 +3000 +0:02:00",
        r"not told +3 +0 +600 +24.0 s",
    ):
        assert re.search(expected, shown), expected


@pytest.fixture
def made(monkeypatch) -> list[tuple[str, Path]]:
    """What the report command writes, and where."""
    made: list[tuple[str, Path]] = []
    monkeypatch.setattr("latentsync_ray.report.summarise", lambda output, peak: replace(REPORT, output=output))
    monkeypatch.setattr("latentsync_ray.report.contact_sheet", lambda output, path, rows: made.append(("sheet", path)))
    monkeypatch.setattr("latentsync_ray.report.faces_sheet", lambda output, path, rows: made.append(("faces", path)) or 1)
    monkeypatch.setattr("latentsync_ray.report.write_page", lambda report, path: made.append(("page", path)))
    return made


def test_report_as_json_is_nothing_else(made, capsys):
    assert call("report", "memory://user:word@o?sig=1", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert made == []
    assert told["output"] == "memory://***@o?***"
    assert (told["clips"], told["bytes"], told["output_seconds"]) == (12, 12_300_000, 144)
    assert told["failures"][0]["examples"] == [{"clip_id": "[1]", "language": None, "message": "nobody"}]
    assert told["first_finished_at"] == "2026-11-28T14:59:59.900000+00:00"
    assert told["course"]["start"] == "2026-11-28T14:50:00+00:00"
    assert told["languages"][1]["language"] is None
    assert told["frames_per_second"] == {"generate": 10.0}


def test_report_as_json_draws_what_is_asked_for(made, tmp_path, capsys):
    assert call("report", "o", "--json", "--sheet", str(tmp_path / "s.png"), "--html", str(tmp_path / "p.html")) == 0
    assert [what for what, _ in made] == ["page", "sheet", "faces"]
    shown = capsys.readouterr()
    assert json.loads(shown.out)["clips"] == 12
    assert "p.html" in shown.err


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (("o", "--html"), Path("o/report.html")),
        (("--html", "o"), Path("o/report.html")),
        (("memory://o", "--html"), Path("report.html")),
        (("o", "--html", "there/p.htm"), Path("there/p.htm")),
    ],
)
def test_report_as_a_page(arguments, place, made, capsys):
    assert call("report", *arguments) == 0
    assert made == [("page", place)]
    assert f"as a page: {place}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [(("o", "p.html"), "it is written with --html only"), (("o", "--html", "p.png"), "it is a page: name a file that ends in")],
)
def test_report_refuses_a_page_that_is_none(arguments, wrong, made, capsys):
    assert call("report", *arguments) == 2
    assert wrong in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert made == []


def test_report_reads_an_output_with_the_options_of_its_job(tmp_path, monkeypatch, capsys):
    (tmp_path / "job.yaml").write_text("manifest: m\noutput: memory://dubbed\nstorage_options: {memory: {skip_me: 7}}\n")
    seen = []

    def summarise(output, peak):
        seen.append((output, filesystems._options))
        return replace(REPORT, output=output)

    monkeypatch.setattr("latentsync_ray.report.summarise", summarise)
    assert call("report", "--config", str(tmp_path / "job.yaml"), "--json") == 0
    assert call("report", "memory://other", "--config", str(tmp_path / "job.yaml"), "--json") == 0
    assert call("report", "memory://other", "--json") == 0
    options = {"memory": {"skip_me": 7}}
    assert seen == [("memory://dubbed", options), ("memory://other", options), ("memory://other", {})]
    capsys.readouterr()
    assert call("report", "job.yaml") == 2
    assert "with a job, write: report --config job.yaml" in capsys.readouterr().err
    assert call("report", "--json") == 2
    assert "name the output of a run, or its job with --config" in capsys.readouterr().err


def test_a_run_with_storage_options_says_how_to_report_on_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "job.yaml").write_text("manifest: m\noutput: memory://o\nstorage_options: {memory: {skip_me: 7}}\n")
    monkeypatch.setattr("latentsync_ray.driver.run", lambda job, progress: summary())
    assert call("run", str(tmp_path / "job.yaml")) == 0
    assert f"latentsync-ray report o --config {tmp_path}/job.yaml\n" in capsys.readouterr().out


def test_report_of_nothing_says_what_to_do(tmp_path, capsys):
    assert call("report", str(tmp_path)) == 2
    assert "has no records: it is not the output of a job" in capsys.readouterr().err


def test_models_says_how_to_get_each(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LATENTSYNC_RAY_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    assert call("models") == 0
    shown = capsys.readouterr().out
    for name in ("latentsync-1.6", "latentsync-1.5", "nano", "tiny-random"):
        assert name in shown
    assert "hf download ByteDance/LatentSync-1.6" in shown
