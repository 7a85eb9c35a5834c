from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file

from latentsync_ray.errors import ConfigError, WeightsNotFound
from latentsync_ray.faces import Face
from latentsync_ray.faces.embedded import EmbeddedDetector
from latentsync_ray.faces.find import check_detector, detector_version
from latentsync_ray.faces.insightface import InsightFaceDetector, landmarks_of_106
from latentsync_ray.faces.mesh import MeshDetector, MeshV2Detector
from latentsync_ray.registry import DETECTORS, lookup


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5])
def test_embedded_detector_finds_the_portrait_at_any_size(portrait: np.ndarray, scale: float) -> None:
    detector = EmbeddedDetector()
    picture = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    (face,) = detector(picture)
    assert face.landmarks.shape == (3, 2)
    assert np.abs(face.landmarks / scale - [[202, 95], [245, 95], [223, 121]]).max() < 6
    near = detector(picture, [face], search=False)
    np.testing.assert_allclose(near[0].landmarks, face.landmarks, atol=4 * scale)


def at(x: float, y: float) -> Face:
    """A face of the portrait's size whose left brow is there."""
    return Face(landmarks=np.array([[x, y], [x + 43, y], [x + 21, y + 26]]))


def test_embedded_detector_finds_nothing_where_nothing_is(portrait: np.ndarray) -> None:
    detector = EmbeddedDetector()
    assert detector(portrait[260:]) == []
    assert detector(np.zeros((40, 30, 3), np.uint8)) == []
    for x, y in ((430, 340), (-850, -850)):
        assert detector(portrait, [at(x, y)]) == []


def test_embedded_detector_hardly_depends_on_where_the_face_is_expected(portrait: np.ndarray) -> None:
    detector = EmbeddedDetector()
    found = [detector(portrait, [at(202 + dx, 95 + dx)]) for dx in np.linspace(0, 2, 9)]
    assert len({face.landmarks.tobytes() for faces in found for face in faces[:1]}) <= 2


def test_points_are_the_official_means_of_landmarks(golden: Path) -> None:
    wanted = load_file(golden / "faces" / "matrices.safetensors")
    for points, landmarks in zip(wanted["landmarks_106"], wanted["triples_mean"], strict=True):
        np.testing.assert_allclose(landmarks_of_106(points + 0.3), landmarks, atol=1e-9)


def face(x: float, width: float, height: float, score: float = 0.9) -> SimpleNamespace:
    return SimpleNamespace(bbox=np.array([x, 0, x + width, height]), det_score=score, landmark_2d_106=np.full((106, 2), x))


def test_insightface_faces_that_the_official_code_ignores_are_ignored() -> None:
    seen = []
    faces = [
        face(1, 100, 120),
        face(2, 200, 240),
        face(3, 49, 120),
        face(4, 60, 79),
        face(5, 200, 120),
        face(6, 50, 300),
        face(7, 100, 120, 0.4),
    ]
    detector = InsightFaceDetector(SimpleNamespace(get=lambda picture: seen.append(picture) or faces))
    frame = np.zeros((10, 10, 3), np.uint8)
    frame[..., 0] = 255
    assert detector.interval == 1
    assert [found.landmarks[0, 0] for found in detector(frame)] == [1, 2]
    assert (seen[0][0, 0] == (0, 0, 255)).all()


def test_insightface_without_faces_gives_none() -> None:
    assert InsightFaceDetector(SimpleNamespace(get=lambda picture: []))(np.zeros((10, 10, 3), np.uint8)) == []


def test_missing_insightface_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "insightface", None)
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    with pytest.raises(ConfigError, match=r"pip install .*\[insightface\]' && pip install --no-deps .*non-commercial"):
        InsightFaceDetector()


def test_insightface_takes_no_gpu_that_nobody_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    class FaceAnalysis:
        def __init__(self, **options: object) -> None:
            asked.append(options)

        def prepare(self, **options: object) -> None:
            asked.append(options)

    monkeypatch.setitem(sys.modules, "insightface", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "insightface.app", SimpleNamespace(FaceAnalysis=FaceAnalysis))
    InsightFaceDetector()
    assert [options.get("providers", options.get("ctx_id")) for options in asked] == [["CPUExecutionProvider"], -1]


def test_models_of_insightface_that_cannot_be_had_say_where_they_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def analysis(**options: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setitem(sys.modules, "insightface", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "insightface.app", SimpleNamespace(FaceAnalysis=analysis))
    with pytest.raises(WeightsNotFound, match=r"buffalo_l\.zip .* into ~/\.insightface/models/buffalo_l"):
        InsightFaceDetector()


def test_the_version_of_a_detector_of_ones_own_is_its_file_or_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    source = "class {name}:\n    interval = 1\n"
    (tmp_path / "first_own.py").write_text(source.format(name="Own"))
    (tmp_path / "other_own.py").write_text(source.format(name="Own") + "\n# changed\n")
    (tmp_path / "told_own.py").write_text(source.format(name="Own") + "    version = staticmethod(lambda: 'two')\n")
    (tmp_path / "text_own.py").write_text(source.format(name="Own") + "    version = 'three'\n")
    (tmp_path / "wrong_own.py").write_text(source.format(name="Own") + "    def version(self):\n        return 'four'\n")
    first, other, told, text = (detector_version(f"{name}_own:Own") for name in ("first", "other", "told", "text"))
    assert first != other
    assert (told, text) == ("two", "three")
    with pytest.raises(ConfigError, match=r"wrong_own:Own\.version\(\) cannot be called on the class"):
        check_detector("wrong_own:Own")
    assert detector_version("embedded") == ""
    with pytest.raises(ConfigError, match=r"unknown detector 'nonsense'; known: auto, .* or the place of a face mesh's files"):
        detector_version("nonsense")


@pytest.mark.parametrize("name", ["math:pi", "math:sqrt", "latentsync_ray.faces:Face", "decimal:Decimal"])
def test_what_is_no_detector_is_told_before_work_starts(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"detector '{name}' (cannot be made by calling it|has no attribute interval)"):
        check_detector(name)


def test_detectors_are_in_the_registry() -> None:
    assert {name: lookup(DETECTORS, name, "detector") for name in DETECTORS} == {
        "mesh": MeshDetector,
        "mesh-v2": MeshV2Detector,
        "embedded": EmbeddedDetector,
        "insightface": InsightFaceDetector,
    }
