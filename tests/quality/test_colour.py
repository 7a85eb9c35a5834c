"""Colour differences against published numbers."""

from __future__ import annotations

import numpy as np
import pytest

from latentsync_ray.quality.colour import difference, lab_of


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_ciede2000_as_sharma_wu_and_dalal_list_it(first: tuple, second: tuple, expected: float) -> None:
    assert difference(np.array(first), np.array(second)) == pytest.approx(expected, abs=1e-4)
    assert difference(np.array(second), np.array(first)) == pytest.approx(expected, abs=1e-4)


def test_lab_of_white_red_and_grey() -> None:
    colours = lab_of(np.array([[255.0, 255, 255], [255, 0, 0], [119, 119, 119], [0, 0, 0]]))
    expected = [[100, 0, 0], [53.24, 80.09, 67.20], [50.03, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(colours, expected, atol=0.01)
    assert np.isnan(lab_of(np.full(3, np.nan))).all()
