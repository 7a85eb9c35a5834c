"""How well sync is told: tables, and a plot of how far the scores can be believed.

    python jobs/judge_sync.py                                   # the rendered portrait and drawn people: 10 minutes on 2 cores
    python jobs/judge_sync.py --real a.mp4 --real b.mp4         # footage with its own sound, in sync, too
    python jobs/judge_sync.py --plot calibration.png

Windows of 2, 4 and 8 s: in sync against shifted by 120, 200 and 400 ms either way, and against the sound of other clips. The
area under the ROC curve is how likely a right one scores higher than a wrong one. Beside ``sync_score`` stands
``sync_correlation``. Needs espeak-ng's library, and matplotlib for the plot.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from latentsync_ray.config import Recipe
from latentsync_ray.faces.align import crop_face
from latentsync_ray.media.speech import decode_speech, read_speech
from latentsync_ray.models.latentsync.template import template
from latentsync_ray.nano.evaluate.score import aligned, read_clip
from latentsync_ray.nano.sync.judge import Table, Verdict, Watched, drawn, measured, rendered, table, verdicts

SECONDS = (2.0, 4.0, 8.0)
SIDE = 256
"""px of the aligned faces."""


def main(
    clips: Annotated[int, typer.Option(min=2, help="Rendered clips, and as many drawn ones.")] = 16,
    side: Annotated[int, typer.Option(help="px of a face: 64 as the shipped model draws it, 256 or 512 as others do.")] = SIDE,
    real: Annotated[list[Path] | None, typer.Option(help="Footage with its own sound.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG of the calibration.")] = None,
) -> None:
    """Judge, and print."""
    groups: dict[str, list[Watched]] = defaultdict(list)
    for clip in rendered(clips, side=side):
        for reader, watched in clip.items():
            groups[f"portrait, {side} px, read by {reader}"].append(watched)
    groups["drawn people, read by own"] = list(drawn(clips))
    for clip in map(film, real or []):
        for reader, watched in clip.items():
            groups[f"real, {watched.name}, read by {reader}"].append(watched)
    everybody = {name: [(seconds, told(name, groups, seconds)) for seconds in SECONDS] for name in groups}
    for reader in ("own", "mesh") if len(real or []) > 1 else ():
        filmed = [rows for name, rows in everybody.items() if name.startswith("real") and name.endswith(reader)]
        if filmed:
            together = [(seconds, [each for rows in filmed for each in rows[at][1]]) for at, seconds in enumerate(SECONDS)]
            everybody[f"all real, read by {reader}"] = together
    for name, rows in everybody.items():
        print(f"\n{name}")
        print("  s  windows        other sound  120 ms  200 ms  400 ms  offset within a frame")
        for (seconds, said), today in itertools.product(rows, (False, True)):
            print_row(seconds, table(said, today=today), "sync_correlation" if today else "sync_score")
    if plot:
        draw(plot, {name: [each for _, said in rows for each in said] for name, rows in everybody.items()})


def told(name: str, groups: dict[str, list[Watched]], seconds: float) -> list[Verdict]:
    """The verdicts on one group; real clips hear each other, and the portrait when they are few."""
    clips = groups[name]
    step = 0.4 if name.startswith("real") else 1.0
    others = [each for other in groups if other.startswith("real") for each in groups[other] if each.name != clips[0].name]
    strangers = [*others, *groups[next(iter(groups))]] if len(clips) == 1 else []
    said = verdicts([*clips, *strangers], seconds, step=step, only=len(clips))
    return [each for clip in clips for each in said.get(clip.name, [])]


def film(path: Path) -> dict[str, Watched]:
    """A video as the pipeline cuts it, and its own sound."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        segments = aligned(path, path, work / "out", recipe=Recipe(model="nano"))
        decode_speech(path, work / "sound.raw", max_seconds=Recipe().max_seconds)
        samples = np.array(read_speech(work / "sound.raw"), np.float32) / 32768
        small = segments[0].faces.shape[1]
        matrices = np.concatenate([segment.affines for segment in segments]) * (SIDE / small)
        matrices[:, :, 2] += (SIDE / small - 1) / 2  # pixel centres are whole numbers
        seen = np.concatenate([segment.start + segment.frames for segment in segments])
        faces = np.zeros((int(seen.max()) + 1, SIDE, SIDE, 3), np.uint8)
        for number, picture in enumerate(itertools.islice(read_clip(path), len(faces))):
            for place in np.flatnonzero(seen == number):
                faces[number] = crop_face(picture, matrices[place], template(SIDE), official=False)
    return measured(path.stem, faces, samples)


def print_row(seconds: float, row: Table, name: str) -> None:
    shifted = "  ".join(f"{area:6.3f}" for area in row.shifted)
    print(f"  {seconds:g}  {row.windows:4d}  {name:16s} {row.other:6.3f}  {shifted}  {row.offset:6.0%}")


def draw(path: Path, groups: dict[str, Sequence[Verdict]]) -> None:
    """How often clips that get a score are in sync, beside what the score says."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (curve, spread) = pyplot.subplots(1, 2, figsize=(13, 6))
    edges = np.linspace(0, 1, 11)
    curve.plot([0, 1], [0, 1], color="grey", linestyle=":")
    for name, said in groups.items():
        score, right = np.array([each.score for each in said]), np.array([each.shift == 0 for each in said])
        weight = np.where(right, 0.5 / right.mean(), 0.5 / (1 - right.mean()))  # half are in sync, as the score supposes
        bins = np.clip(np.digitize(score, edges) - 1, 0, 9)
        known = [each for each in range(10) if (bins == each).sum() >= 10]
        shares = [np.average(right[bins == each], weights=weight[bins == each]) for each in known]
        curve.plot([np.average(score[bins == each], weights=weight[bins == each]) for each in known], shares, "o-", label=name)
        spread.hist(
            [score[right], score[~right]], edges, weights=[weight[right], weight[~right]], histtype="step", label=[name, None]
        )
    curve.set(xlabel="sync_score", ylabel="share in sync, of windows with that score", title="Calibration")
    spread.set(xlabel="sync_score", title="in sync, and not", yscale="log")
    curve.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    print(f"\n{path}")


if __name__ == "__main__":
    typer.run(main)
