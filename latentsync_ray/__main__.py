"""``python -m latentsync_ray`` is ``latentsync-ray``."""

from __future__ import annotations

from latentsync_ray.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
