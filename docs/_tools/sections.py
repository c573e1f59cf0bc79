"""Docstrings as the reference reads them: a section may begin without an empty line above it."""

from __future__ import annotations

import re
from typing import Any

import griffe

__all__ = ["Sections"]

_HEAD = re.compile(r"\n(?=(?:Args|Attributes|Raises|Returns|Yields|Source):\s)")


class Sections(griffe.Extension):
    """Put the empty line there, before the docstring is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _HEAD.sub("\n\n", obj.docstring.value)
