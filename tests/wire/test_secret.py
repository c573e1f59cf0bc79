"""The token's own type."""

from __future__ import annotations

from tokfluence_async._wire.secret import Secret

TOKEN = Secret("tkf_live_abcdEFGHijklMNOPqrstUVWXyz012345")


def test_a_secret_shows_its_display_prefix_at_most() -> None:
    """And it is the token all the same, where it has to be."""
    assert repr(TOKEN) == "'tkf_live_abcd…'"
    assert repr(Secret("another-token-form-of-41-characters-xxxxxx")) == "'…'"
    assert repr(Secret("tkf_live_short")) == "'…'"
    assert TOKEN.reveal() == "tkf_live_abcdEFGHijklMNOPqrstUVWXyz012345"
    assert type(TOKEN.reveal()) is str
