"""LatentSync: from aligned faces and speech to faces with new mouths.

    mel -> whisper ---------+
                            v
    faces -> vae -> denoise(unet) -> vae -> faces        model.py puts them together

``family`` is what stages see of it without torch: its ``template`` and ``mask``, what it hears (``audio``), which models there
are (``specs``), and where (``source``); ``checkpoint`` loads them, strictly. Knows neither clips nor Ray.
"""

from __future__ import annotations

__all__: list[str] = []
