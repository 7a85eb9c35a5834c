"""What the bench of a card counts by itself; the measuring needs a card."""

from __future__ import annotations

import pytest
from bench_gpu import Work, peak_of


def test_arithmetic_of_a_window_follows_steps_cache_and_guidance() -> None:
    work = Work(whole=100, cached=7, pictures=50)
    assert work.of(steps=20, guidance=1.0, cache=1) == 20 * 100 + 50
    assert work.of(steps=20, guidance=1.0, cache=3) == 7 * 100 + 13 * 7 + 50
    assert work.of(steps=20, guidance=1.5, cache=3) == 2 * (7 * 100 + 13 * 7) + 50


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("A thing", None),
    ],
)
def test_peaks_go_by_the_name_of_the_card(card: str, peak: float | None) -> None:
    assert peak_of(card) == peak
