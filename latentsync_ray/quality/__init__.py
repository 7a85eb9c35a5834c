"""What else can go wrong with a dubbed face than its timing, measured while it is pasted: without a truth, without a network.

    planes before and after --views--> View, View --marks--> traits, grids (of each face in each frame) --verdict--> columns

``traits`` and ``grids`` are what a part keeps of each face; ``verdict`` makes the record's columns of those of the whole clip,
so that they do not depend on how it was cut. Knows pictures, templates and numbers; knows nothing of files, codecs or models.
"""

from __future__ import annotations

__all__: list[str] = []
