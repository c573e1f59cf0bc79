"""The asyncio SDK for the Tokfluence API: TikTok posts, their comments, and live analysis of posts
by URL.

    from tokfluence_async import TokfluenceClient

    async with TokfluenceClient() as client:
        post = await client.posts.get("7234567890123456789")

Everything public is here; `tokfluence_async.frames`, `tokfluence_async.ray` and
`tokfluence_async.testing` are the only other doors. Names are loaded when they are first asked for,
so that importing the package costs little and loads nothing it does not need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from ._client import TokfluenceClient
    from ._crawl.crawl import crawl
    from ._credits.estimate import Estimate
    from ._credits.ledger import Difference, Ledger, LedgerLine
    from ._credits.shared import SharedBudget
    from ._errors import (
        APIConnectionError,
        APIError,
        APIResponseValidationError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BudgetExceededError,
        ClosedError,
        ConfigurationError,
        DuplicateRequestError,
        InsufficientCreditsError,
        InternalServerError,
        InvalidPostError,
        JournalError,
        NotFoundError,
        PermissionDeniedError,
        PostNotReadyError,
        RateLimitError,
        TokfluenceError,
        UnprocessableEntityError,
        UpstreamError,
    )
    from ._journal.journal import Journal
    from ._journal.redis import RedisJournal
    from ._journal.sqlite import SQLiteJournal
    from ._models import (
        Analysis,
        AnalyzeReport,
        Comment,
        CommentPage,
        CrawlReport,
        Music,
        Outcome,
        Post,
        Progress,
        Timeout,
        Usage,
    )
    from ._notebook import show_progress
    from ._sandbox.sandbox import Sandbox
    from ._throttle.throttle import Throttle

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "Analysis",
    "AnalyzeReport",
    "AuthenticationError",
    "BudgetExceededError",
    "ClosedError",
    "Comment",
    "CommentPage",
    "ConfigurationError",
    "CrawlReport",
    "Difference",
    "DuplicateRequestError",
    "Estimate",
    "InsufficientCreditsError",
    "InternalServerError",
    "InvalidPostError",
    "Journal",
    "JournalError",
    "Ledger",
    "LedgerLine",
    "Music",
    "NotFoundError",
    "Outcome",
    "PermissionDeniedError",
    "Post",
    "PostNotReadyError",
    "Progress",
    "RateLimitError",
    "RedisJournal",
    "SQLiteJournal",
    "Sandbox",
    "SharedBudget",
    "Throttle",
    "Timeout",
    "TokfluenceClient",
    "TokfluenceError",
    "UnprocessableEntityError",
    "UpstreamError",
    "Usage",
    "__version__",
    "crawl",
    "show_progress",
]

# Where a name is that is neither a model nor an error.
_ROOMS = {
    "Difference": "_credits.ledger",
    "Estimate": "_credits.estimate",
    "Journal": "_journal.sqlite",  # whose class is what `Journal(path)` makes
    "Ledger": "_credits.ledger",
    "LedgerLine": "_credits.ledger",
    "RedisJournal": "_journal.redis",
    "SQLiteJournal": "_journal.sqlite",
    "Sandbox": "_sandbox.sandbox",
    "SharedBudget": "_credits.shared",
    "Throttle": "_throttle.throttle",
    "TokfluenceClient": "_client",
    "crawl": "_crawl.crawl",
    "show_progress": "_notebook",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = _ROOMS.get(name) or ("_errors" if name.endswith("Error") else "_models")
    value = globals()[name] = getattr(import_module(f".{room}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
