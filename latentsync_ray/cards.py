"""What cards can do at best."""

from __future__ import annotations

__all__ = ["PEAKS", "peak_of"]

PEAKS = {
    "H200": 989,
    "H100": 989,
    "H100 NVL": 835,
    "H100 PCIe": 756,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "RTX 4090": 165,
}
"""Dense bf16 TFLOP/s with float32 sums, as the makers publish it, by words of a card's name; the longest that fits counts."""


def peak_of(card: str) -> float | None:
    """TFLOP/s of a card; None of one that is not known."""
    words = card.replace("-", " ").split()
    if "MIG" in words or "Laptop" in words:  # a part of one, or less than its namesake
        return None
    fitting = [name for name in PEAKS if set(name.split()) <= set(words)]
    return PEAKS[max(fitting, key=len)] if fitting else None
