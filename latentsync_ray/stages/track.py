"""Track: one sequential pass over a video finds and follows its faces, and what it found serves all clips of that video.

The pass leaves a file of face tracks in the output (see ``faces.store``). From there on every clip decides by itself which face
gets its speech, and cuts what it needs into segments, which may then be worked on anywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from latentsync_ray import __version__, redact, storage
from latentsync_ray.config import Recipe
from latentsync_ray.errors import InputNotFound, NoFace, TooLarge, UnreadableAudio
from latentsync_ray.faces import Detector
from latentsync_ray.faces import tracks as tracks_module
from latentsync_ray.faces.align import OfficialBias, affine, of_stored_pixels, shown_size, square_pixels
from latentsync_ray.faces.choose import Choice, choose, needs_sound
from latentsync_ray.faces.find import detector_version, make_detector
from latentsync_ray.faces.link import find_tracks
from latentsync_ray.faces.look import Look, Still
from latentsync_ray.faces.steady import bridged, steady
from latentsync_ray.faces.store import read_tracks, write_tracks
from latentsync_ray.faces.tracks import Tracks, outline_at
from latentsync_ray.faces.visible import covered
from latentsync_ray.layout import drafts_folder, faces_uri, relative
from latentsync_ray.measure import loudness
from latentsync_ray.media.decode import read_frames
from latentsync_ray.media.source import VideoIndex
from latentsync_ray.models.find import find_model
from latentsync_ray.stages.inputs import Input, open_video, planned_input
from latentsync_ray.stages.sources import speech_samples
from latentsync_ray.types import ClipPlan, Segment, TrackedFaces

__all__ = ["Track", "chosen"]

_STRETCH = 250
"""Of a video that is longer than a clip needs, so many frames are looked through, or two, four ... times as many: one language
may be a little longer than another, and both shall share what was found."""
_REMEMBERED = 4
"""Videos whose tracks a process keeps: clips of one video follow each other."""


class Track:
    """``Track(recipe, output)(plan)`` yields one ``TrackedFaces`` per segment, in the clip's order.

    The tracks are left in the output, to be kept with ``keep``; without ``share`` only this process knows them. Segments whose
    parts are finished come out empty. Raises NoFace, before any row, when no face of the clip gets the speech.
    """

    def __init__(self, recipe: Recipe, output: str, *, keep: bool = False, share: bool = True) -> None:
        self.recipe, self.output, self.keep, self.share = recipe, output, keep, share or keep
        self.template = find_model(recipe.model).template
        cv2.setNumThreads(recipe.cpu_threads)
        self._version = detector_version(recipe.detector)
        self._detector: Detector | None = None
        self._known: OrderedDict[str, Tracks] = OrderedDict()

    def __call__(self, plan: ClipPlan) -> Iterator[TrackedFaces]:
        if len(plan.finished) == plan.segment_count:
            yield from (TrackedFaces.of(segment) for segment, _ in _segments(plan))
            return
        began = time.perf_counter()
        _, index = open_video(plan, self.recipe)
        tracks = self._tracks(plan, index)
        face = plan.face or self.recipe.face
        choice = chosen(tracks, face, planned_input(plan, "video"), index, self.recipe)
        shown = _Shown(self, tracks, choice, index)
        speaking = [track.id for track in shown.tracks if shown.weight(track, plan.source_frames).any()]
        if not speaking:
            raise NoFace(self._nobody(plan, tracks, face))
        learned = {
            "face_choice": choice.rule,
            "face_tracks": ",".join(map(str, speaking)),
            "faces_path": self._path(plan, index),
            "damaged": bool(tracks.corrupt),
        }
        damaged = np.isin(plan.source_frames, tracks.corrupt)
        for segment, rows in _segments(plan):
            if segment.index in plan.finished:
                yield TrackedFaces.of(segment)
                continue
            corrupt = int(damaged[segment.start : segment.stop].sum())
            faces = shown.of(replace(segment, corrupt_frames=corrupt, **learned), rows)
            yield replace(faces, track_seconds=time.perf_counter() - began)
            began = time.perf_counter()

    def _uri(self, plan: ClipPlan, index: VideoIndex) -> tuple[str, int]:
        """Where the tracks that the clip needs are kept, and up to which frame they go."""
        needed = int(plan.source_frames.max()) + 1
        stop = min(len(index), _STRETCH << max(0, (needed - 1) // _STRETCH).bit_length())
        digest = plan.video_sha256
        made_of = [__version__, digest, stop, self.recipe.detector, self._version, self.recipe.parity]
        key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:24]
        return faces_uri(self.output, key, keep=self.keep), stop

    def _path(self, plan: ClipPlan, index: VideoIndex) -> str | None:
        return relative(self._uri(plan, index)[0], self.output) if self.keep else None

    def _tracks(self, plan: ClipPlan, index: VideoIndex) -> Tracks:
        """The tracks of the clip's video as far as the clip needs them: known, kept in storage, or made now."""
        uri, stop = self._uri(plan, index)
        if uri not in self._known:
            try:
                tracks = read_tracks(storage.read_bytes(uri))
            except (InputNotFound, ValueError):  # the latter when a machine died while it was written
                data = write_tracks(self._look_through(plan, index, stop))
                if self.share:
                    storage.write_bytes(uri, data, drafts=drafts_folder(self.output))
                tracks = read_tracks(data)  # as other processes would see them
            self._known[uri] = tracks
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(uri)
        return self._known[uri]

    def _look_through(self, plan: ClipPlan, index: VideoIndex, stop: int) -> Tracks:
        detector = self._detector or make_detector(self.recipe.detector)
        self._detector = detector
        corrupt: list[int] = []
        tracks = find_tracks(_pictures(plan, self.recipe, stop, corrupt), detector)
        tracks.corrupt = corrupt
        if detector.interval == 1:
            tracks.tracks = [bridged(track) for track in tracks.tracks]
            for track in tracks.tracks:
                track.covered = covered(track)
            if not self.recipe.parity:
                tracks.tracks = [steady(track) for track in tracks.tracks]
        return tracks

    def _nobody(self, plan: ClipPlan, tracks: Tracks, face: str) -> str:
        shown = redact.shown(plan.video)
        if not tracks.tracks:
            hint = ""
            if self.recipe.detector == "embedded":
                hint = (
                    "; it needs a mostly frontal, upright face of at least a twelfth of the picture's shorter side; 'mesh' "
                    "finds others too"
                )
            return f"no frame of {shown} shows a face that the {redact.shown(self.recipe.detector)!r} detector finds{hint}"
        seen = f"{len(tracks.tracks)} face{'s' if len(tracks.tracks) > 1 else ''} in {shown}"
        if face not in ("speaking", "largest", "all"):
            return f"none of the {seen} is the one that was asked for (face is {face!r}); 'speaking' or 'largest' chooses one"
        return f"no mouth of the {seen} can be seen well enough: covered, turned away or out of the picture in all frames"


def chosen(tracks: Tracks, face: str, video: Input, index: VideoIndex, recipe: Recipe) -> Choice:
    """Who of a video's faces gets the speech, by the rule ``face``; listens to the video's own sound when that is needed."""
    seconds = (index.pts[: tracks.stop] - round(index.start / index.time_base)) * float(index.time_base)
    sound = None
    if needs_sound(tracks, face):
        with contextlib.suppress(UnreadableAudio, TooLarge):  # it is a hint
            samples = speech_samples(video, recipe)
            sound = loudness(samples, seconds, float(1 / index.rate)) if len(samples) else None
    size = shown_size(index.width, index.height, float(index.pixel_aspect))
    return choose(tracks, face, size=size, seconds=seconds, sound=sound)


def _segments(plan: ClipPlan) -> Iterator[tuple[Segment, np.ndarray]]:
    """The clip's segments, and the source frames that each shows."""
    start = 0
    for index, stop in enumerate(plan.segment_stops.tolist()):
        yield Segment.of(plan, index=index, start=start, stop=stop), plan.source_frames[start:stop]
        start = stop


def _pictures(plan: ClipPlan, recipe: Recipe, stop: int, corrupt: list[int]) -> Iterator[tuple[int, Look]]:
    """The first ``stop`` frames with square pixels; ``corrupt`` gets the rows of damaged ones."""
    path, index = open_video(plan, recipe)
    aspect, size = float(index.pixel_aspect), (index.width, index.height)
    stored_as_shown = shown_size(*size, aspect) == size
    for row, picture in read_frames(path, index, np.arange(stop, dtype=np.int32)):
        if picture.corrupt:
            corrupt.append(row)
        yield row, picture if stored_as_shown else Still(square_pixels(picture.rgb(), aspect))


class _Shown:
    """Where the chosen faces of a clip are, ready to be cut out."""

    def __init__(self, stage: Track, tracks: Tracks, choice: Choice, index: VideoIndex) -> None:
        self.template, self.index, self.weights, self.reasons = stage.template, index, choice.weights, choice.reasons
        self.tracks = [track for track in tracks.tracks if track.id in choice.weights]
        self.biased = {track.id: self._official(track) for track in self.tracks} if stage.recipe.parity else {}

    def weight(self, track: tracks_module.Track, rows: np.ndarray) -> np.ndarray:
        """How much of a track is shown in frames that show these source frames: float32, 0 where it is not there."""
        places = np.minimum(np.searchsorted(track.rows, rows), len(track) - 1)
        return np.where(track.rows[places] == rows, self.weights[track.id][places], 0).astype(np.float32)

    def _official(self, track: tracks_module.Track) -> np.ndarray:
        """Affines of all rows as the official code makes them, one after the other."""
        bias = OfficialBias()
        return np.array([bias(points, self.template) for points in track.landmarks.astype(np.float64)])

    def of(self, segment: Segment, rows: np.ndarray) -> TrackedFaces:
        """The segment that shows the source frames ``rows``."""
        frames, tracks, weights, affines, outlines = [], [], [], [], []
        edges = max((track.outline.shape[1] for track in self.tracks), default=0)
        for track in self.tracks:
            weight = self.weight(track, rows)
            at = np.flatnonzero(weight)
            if not len(at):
                continue
            distinct, back = np.unique(np.searchsorted(track.rows, rows[at]), return_inverse=True)
            points = track.landmarks[distinct].astype(np.float64)
            if track.id in self.biased:
                matrices = self.biased[track.id][distinct]
            else:
                matrices = np.array([affine(each, self.template) for each in points])
            edge = np.zeros((len(distinct), edges, 2), np.float32)
            if track.outline.shape[1]:
                polygon = outline_at(track.outline[distinct], points)
                edge = (np.einsum("nij,nkj->nki", matrices[:, :, :2], polygon) + matrices[:, None, :, 2]).astype(np.float32)
            aspect, size = float(self.index.pixel_aspect), (self.index.width, self.index.height)
            stored = np.array([of_stored_pixels(each, aspect, size=size) for each in matrices])
            frames.append(at)
            tracks.append(np.full(len(at), track.id))
            weights.append(weight[at])
            affines.append(stored[back])
            outlines.append(edge[back])
        if not frames:
            return TrackedFaces.of(segment, source_frames=rows, reasons=self.reasons[rows])
        return TrackedFaces.of(
            segment,
            source_frames=rows,
            reasons=self.reasons[rows],
            frames=np.concatenate(frames).astype(np.int32),
            tracks=np.concatenate(tracks).astype(np.int32),
            weights=np.concatenate(weights).astype(np.float32),
            affines=np.concatenate(affines).astype(np.float32),
            outlines=np.concatenate(outlines).astype(np.float32),
        )
