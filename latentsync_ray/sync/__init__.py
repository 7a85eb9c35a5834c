"""Whether lips and sound of a clip belong together: a score, and an offset. No weights of anybody else, no mesh, no torch.

lips.py      what the lips in an aligned face do
score.py     that against the speech
networks.py  the two small networks behind both
"""

from __future__ import annotations

from latentsync_ray.sync.lips import FACTS, LEAST_MOUTH, read_lips
from latentsync_ray.sync.score import Sync, sync_of

__all__ = ["FACTS", "LEAST_MOUTH", "Sync", "read_lips", "sync_of"]
