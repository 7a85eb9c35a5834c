"""How well a model lip-syncs, measured where the truth is known: on clips of the rendered portrait.

    make_take -> Take -write_take-> video, speech -(any runner)-> dubbed clip -score_take-> Score

``take`` makes a clip and knows what it has to look like when the head says something else; ``score`` compares; ``ceiling`` is
what the model's autoencoder alone would allow. For footage without a truth, see ``measure``, whose numbers are in every record.
"""

from __future__ import annotations

from latentsync_ray.nano.evaluate.ceiling import write_ceiling
from latentsync_ray.nano.evaluate.score import Score, aligned, read_clip, score_take
from latentsync_ray.nano.evaluate.take import Take, make_take, write_portrait, write_take

__all__ = ["Score", "Take", "aligned", "make_take", "read_clip", "score_take", "write_ceiling", "write_portrait", "write_take"]
