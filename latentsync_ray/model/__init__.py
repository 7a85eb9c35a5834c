"""The model: from aligned faces and speech to faces with new mouths.

    mel -> whisper ---------+
                            v
    faces -> vae -> denoise(unet) -> vae -> faces        latentsync.py puts them together

``specs`` and ``source`` know which models there are and where; ``checkpoint`` loads them, strictly. Knows neither clips nor
Ray. ``mel``, ``audio``, ``options``, ``specs`` and ``source`` need no torch.
"""

from __future__ import annotations

__all__: list[str] = []
