"""A text that does not show itself."""

from __future__ import annotations

__all__ = ["Secret"]


class Secret(str):
    """A token. Its `repr` shows at most the key's display prefix, the only part that may ever be
    shown [public]. So neither a traceback with locals nor a debugger shows the rest."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(f"{self[:13]}…") if self.startswith("tkf_live_") and len(self) > 20 else "'…'"

    def reveal(self) -> str:
        """The text itself, for the one header it goes into."""
        return str.__str__(self)
