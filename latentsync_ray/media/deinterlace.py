"""Whole pictures from interlaced ones: FFmpeg's bwdif, one picture for each, that of the field shown first.

A result depends on the picture before and the one after, and on nothing else, so that it does not matter where decoding began.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import av
from av.filter import Graph

from latentsync_ray.media.index import FieldOrder

__all__ = ["BEFORE", "deinterlaced"]

BEFORE = 2
"""How many pictures before the first wanted one are needed: its neighbour, and that one's, for it may have to stand in."""

_Row = tuple[int, av.VideoFrame]


def deinterlaced(frames: Iterator[_Row], first: int, *, order: FieldOrder) -> Iterator[_Row]:
    """The (row, frame) pairs ``frames``, rising, deinterlaced: from somewhat before row ``first`` on, flags and order kept.

    Every picture is, also one that is not flagged: flags of H.264 can depend on where decoding began.
    """
    before: deque[_Row] = deque(maxlen=BEFORE)
    weaver: _Weaver | None = None
    for row, frame in frames:
        if row < first:
            before.append((row, frame))
            continue
        for each in (*before, (row, frame)):
            if weaver is None or not weaver.takes(each[1]):
                yield from weaver.rest() if weaver else ()
                weaver = _Weaver(each[1], order)
            yield from weaver.push(*each)
        before.clear()
    for each in before:  # nothing after them can be decoded
        weaver = weaver or _Weaver(each[1], order)
        yield from weaver.push(*each)
    yield from weaver.rest() if weaver else ()


class _Weaver:
    """The filter for a stretch of pictures of one size and format. Gives each back when it has the next."""

    def __init__(self, frame: av.VideoFrame, order: FieldOrder) -> None:
        self._kind = (frame.width, frame.height, frame.format.name)
        self._rows: deque[int] = deque()
        self._graph = Graph()
        self._graph.threads = 1
        source = self._graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
        bwdif = self._graph.add("bwdif", f"mode=send_frame:parity={order}:deint=all")
        self._graph.link_nodes(source, bwdif, self._graph.add("buffersink")).configure()

    def takes(self, frame: av.VideoFrame) -> bool:
        return (frame.width, frame.height, frame.format.name) == self._kind

    def push(self, row: int, frame: av.VideoFrame) -> Iterator[_Row]:
        self._rows.append(row)
        self._graph.vpush(frame)
        yield from self._ready()

    def rest(self) -> Iterator[_Row]:
        self._graph.vpush(None)
        yield from self._ready()

    def _ready(self) -> Iterator[_Row]:
        while self._rows:
            try:
                frame = self._graph.vpull()
            except (BlockingIOError, EOFError):
                return
            yield self._rows.popleft(), frame
