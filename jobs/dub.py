"""The main job as a script: lip-sync every pair of a manifest, on Ray.

    python jobs/dub.py configs/demo.yaml
    python jobs/dub.py configs/gcs_h100.yaml manifest=gs://b/m.parquet output=gs://b/out recipe.steps=25

Run again after an interruption, it goes on where it was. Exit code 0, or 1 when more clips failed than the budget allows, or 2
when the job is wrong. Copy it and change what you like: this is all that ``latentsync-ray run`` does.
"""

from __future__ import annotations

import sys

from latentsync_ray import ConfigError, ModelError, load_job, run
from latentsync_ray.progress import display


def main(config: str, *overrides: str) -> int:
    """Run the job; the exit code."""
    try:
        job = load_job(config, *overrides)
        with display(job) as progress:
            summary = run(job, progress=progress)
    except (ConfigError, ModelError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    done, failed = summary.done_before + summary.ok, summary.failed_before + summary.failed
    print(f"{done} of {summary.total} clips done, {failed} failed, {summary.frames} frames in {summary.seconds:.1f} s")
    print(f"written to {summary.output}")
    return summary.exit_code


if __name__ == "__main__":
    if len(sys.argv) < 2:
        print(f"usage: {sys.argv[0]} CONFIG [key=value ...]", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(*sys.argv[1:]))
