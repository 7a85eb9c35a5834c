"""The room of codecs: everything that touches PyAV. Imported module by module, so that ``grid`` and ``colour`` need no codec.

``source`` opens and probes, ``grid`` chooses frames, ``decode`` and ``playback`` read them, ``encode`` makes parts, ``join``
makes the clip, and ``speech`` is what the model hears.
"""

__all__: list[str] = []
