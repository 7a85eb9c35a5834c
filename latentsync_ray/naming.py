"""Templates of clips' names, such as ``{video_stem}/{language}``: their form. ``clip_names`` fills them."""

from __future__ import annotations

import string
from collections.abc import Iterator

__all__ = ["DEFAULT_TEMPLATE", "check_template", "pieces"]

DEFAULT_TEMPLATE = "{clip_id}"
_EXAMPLE = "{video_stem}/{language}"


def check_template(template: str) -> str:
    """The template, if its form is right. Raises ValueError."""
    if all(field is None for field, _ in pieces(template)):
        raise ValueError(f"{template!r} gives all clips one name; use columns in braces, e.g. {_EXAMPLE}")
    return template


def pieces(template: str) -> Iterator[tuple[str | None, str]]:
    """Columns and the text between them: (column, "") or (None, text). Raises ValueError."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{template!r} is no template ({error}); e.g. {_EXAMPLE}") from error
    for text, field, form, conversion in parsed:
        if text:
            yield None, text
        if field is not None:
            if not field or form or conversion:
                raise ValueError(f"{template!r} may hold nothing but names of columns in braces, e.g. {_EXAMPLE}")
            yield field, ""
