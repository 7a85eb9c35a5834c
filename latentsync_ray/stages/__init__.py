"""The pipeline, one verb a file: plan, track, crop, generate, paste, join.

A stage is a class with a small constructor and one call. It knows the rooms below it (media, faces, models, sinks) and nothing
of Ray: ``local.py`` calls the six in a loop, ``pipeline/`` hands the same six to Ray Data.
"""

__all__: list[str] = []
