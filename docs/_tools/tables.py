"""Tables of the documentation that are made from the code, so that they cannot be out of date.

A page asks for one by a line `<!-- table: NAME -->`; `hooks` puts it there when the site is built.
"""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import griffe
import typer.main

import tokfluence_async
from tokfluence_async import (
    Comment,
    Music,
    Post,
    Sandbox,
    Throttle,
    TokfluenceClient,
    TokfluenceError,
    crawl,
    frames,
)
from tokfluence_async._cli.app import app
from tokfluence_async._errors import APIStatusError, status_error
from tokfluence_async._posts import Posts
from tokfluence_async._wire.prices import price_of
from tokfluence_async._wire.statuses import meaning_of

__all__ = ["TABLES"]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *([str(cell) for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """One line, in which a bar is no border; within code it is none anyway."""
    line = re.sub(r"\s*\n\s*", " ", text)
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if part.startswith("`") else part.replace("|", "\\|") for part in parts)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", " ".join(text.split()), maxsplit=1)[0]


# --- arguments ------------------------------------------------------------------------------------


def _described(documented: Any) -> dict[str, str]:
    """What a Google-style docstring says of each argument."""
    docstring = griffe.Docstring(inspect.getdoc(documented) or "")
    return {
        name.strip().removesuffix("=").lstrip("*"): argument.description
        for section in docstring.parse("google", warnings=False)
        if isinstance(section, griffe.DocstringSectionParameters)
        for argument in section.value
        for name in argument.name.split(",")
    }


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "required"
    value = parameter.default
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return f"`{value:_}`" if isinstance(value, int) and value > 9999 else f"`{value!r}`"


def _arguments(function: Callable[..., Any], documented: Any = None) -> str:
    described = _described(documented or function)
    return _table(
        ("argument", "default", "meaning"),
        (
            (f"`{name}`", _default(parameter), described.get(name, ""))
            for name, parameter in inspect.signature(function).parameters.items()
            if name not in ("self", "client")
        ),
    )


# --- prices and errors ----------------------------------------------------------------------------

_URLS = {"urls": ["1"]}
_CALLS: tuple[tuple[str, str, str, Any, str], ...] = (
    ("posts.get, posts.get_many", "GET", "/v1/posts/1", None, "a post; a miss is charged too"),
    ("posts.comments, posts.comment_pages, crawl(comments=True)", "GET", "/v1/posts/1/comments",
     None, "a page, of 200 comments unless `limit` says fewer"),
    ("posts.analyze, posts.analyze_iter", "POST", "/v1/posts/analyze", _URLS,
     "a distinct post, whatever comes of it, `fresh` included"),
    ('request("POST", "/v1/ai_search")', "POST", "/v1/ai_search", None, "a search"),
    ('request("GET", "/v1/creators/…")', "GET", "/v1/creators/1", None, "a creator"),
    ('request("GET", "/v1/creators/…/posts")', "GET", "/v1/creators/1/posts", None, "a call"),
    ('request("POST", "/v1/campaigns")', "POST", "/v1/campaigns", None,
     "a campaign, and as much as an analysis for each of its posts"),
    ('request("GET", "/v1/campaigns/…")', "GET", "/v1/campaigns/1", None, "a campaign"),
    ('request("GET", "/v1/campaigns/…/metrics")', "GET", "/v1/campaigns/1/metrics", None,
     "a call; `/posts` and `/influencers` likewise"),
)  # fmt: skip


def _prices() -> str:
    def rows() -> Iterator[tuple[str, str, str]]:
        for call, method, path, body, per in _CALLS:
            calls = (
                call if "request(" in call else ", ".join(f"`{one}`" for one in call.split(", "))
            )
            named = f"`{call}`" if "request(" in call else calls
            yield named, str(price_of(method, path, body)), per
        read = price_of("GET", "/v1/posts/1", None)
        analyze = price_of("POST", "/v1/posts/analyze", _URLS)
        yield (
            "`posts.resolve`, `crawl`",
            f"{read} or {read + analyze + read}",
            f"a post: {read} if it is in the index, else {read} to look, {analyze} to analyze and "
            f"{read} to read it; and {read} for each read that comes before it is readable",
        )
        yield "`posts.estimate`, `crawl --dry-run`", "0", "sends nothing"

    return _table(("call", "credits", "for"), rows())


_CODES = {
    401: "unauthorized",
    402: "insufficient_credits",
    403: "plan_required",
    404: "post_not_found",
    409: "duplicate_request",
    422: "missing_parameter",
    429: "rate_limited",
    500: "internal_error",
    502: "upstream_error",
}
# What to do about an error: the one column that no code knows.
_ADVICE = {
    "APIConnectionError": (
        "Check the network, `base_url` and a proxy. `error.sent` says whether the request may "
        "have reached the service. Repeats were made already: run the job again later; with a "
        "journal it pays nothing twice."
    ),
    "APITimeoutError": "Raise `timeout=` if the service is slow, else as for `APIConnectionError`.",
    "APIResponseValidationError": (
        "Look at `error.body`. HTML means a proxy or a wrong `base_url`. JSON of another "
        "shape means a newer service: update the package."
    ),
    "AuthenticationError": (
        "Check `TOKFLUENCE_TOKEN`: a stray quote, a revoked key, a key of another account. "
        "Nothing more is sent by the job."
    ),
    "BudgetExceededError": (
        "Raise `max_credits` (or lower `keep_credits`) and run the job again; what is done is "
        "not paid for again."
    ),
    "ClosedError": (
        "The program used a client after `aclose()` or after its `async with`. Close it "
        "later, or make a new one."
    ),
    "ConfigurationError": (
        "Do what the message says: a token, address, option or folder is wrong. Nothing was sent."
    ),
    "DuplicateRequestError": (
        "A request of your own (`client.request`) was done by an earlier attempt whose answer "
        "was lost. Read its result; do not send it again. Bulk calls handle this themselves, "
        "with the status `duplicate_request`."
    ),
    "InsufficientCreditsError": "Fill up the wallet and run the job again.",
    "InternalServerError": (
        "The service's own fault; it was tried again. Run the job again later, and report "
        "`error.request_id`."
    ),
    "InvalidPostError": (
        "Mend the input: `error.reason` says what is wrong with it. Short links "
        "(`vm.tiktok.com`) carry no id: open them and take the address they lead to."
    ),
    "JournalError": (
        "Do what the message says: another process has the folder, a file was edited, or the "
        "disk is full. What was recorded stands."
    ),
    "NotFoundError": (
        "The post is not in the index: use `posts.resolve`, which has it analyzed. Without "
        "`error.code` it was not the service that answered: check `base_url`."
    ),
    "PermissionDeniedError": (
        "`plan_required`: the account has no Developer plan. `account_banned`: ask the "
        "service. `forbidden`: the object belongs to somebody else."
    ),
    "PostNotReadyError": (
        "The post is paid for. Read it later with `posts.get`, for 1 credit; do not analyze "
        "it again. A larger `patience=` waits longer."
    ),
    "RateLimitError": (
        "Another program uses the same address or key. Share the throttle, or give a smaller "
        "`Throttle(per_ip=…)`."
    ),
    "UnprocessableEntityError": (
        "A parameter of your own (`client.request`) is missing or invalid; the message names it."
    ),
    "UpstreamError": (
        "With the code `upstream_error` TikTok could not be reached and nothing was charged: "
        "run the job again later. Without a code a proxy answered."
    ),
}


def _error_classes() -> list[type[BaseException]]:
    found = (getattr(tokfluence_async, name) for name in tokfluence_async.__all__)
    return [each for each in found if inspect.isclass(each) and issubclass(each, BaseException)]


def _errors() -> str:
    statuses = {status_error(status): status for status in _CODES}

    def charged(error: type[BaseException]) -> str:
        status = statuses.get(error)  # type: ignore[call-overload]
        if status is None:
            return {"APIConnectionError": "unknown", "APITimeoutError": "unknown"}.get(
                error.__name__,
                "yes" if error.__name__ in ("PostNotReadyError", "APIResponseValidationError")
                else "no",
            )  # fmt: skip
        if status == 500:
            return "unknown"
        return "yes" if meaning_of(status, _CODES[status]).charged else "no"

    return _table(
        ("error, status, code", "charged", "what it means", "what to do"),
        (
            (
                f"`{error.__name__}`"
                + (f" {statuses[error]} `{_CODES[statuses[error]]}`" if error in statuses else ""),
                charged(error),
                _first_sentence(inspect.getdoc(error) or ""),
                _ADVICE[error.__name__],
            )
            for error in _error_classes()
            if error.__name__ in _ADVICE
        ),
    )


def _error_tree() -> str:
    def below(error: type[BaseException], depth: int) -> Iterator[str]:
        yield f"{'    ' * depth}- `{error.__name__}`"
        for each in sorted(error.__subclasses__(), key=lambda found: found.__name__):
            if each.__name__ in tokfluence_async.__all__:
                yield from below(each, depth + 1)

    return "\n".join([*below(TokfluenceError, 0), "- `ClosedError` (a `RuntimeError`)"])


def undescribed_errors() -> set[str]:
    """Public errors that the table says nothing of."""
    bases = {"TokfluenceError", "APIError", APIStatusError.__name__}
    return {each.__name__ for each in _error_classes()} - bases - _ADVICE.keys()


# --- the files of a crawl -------------------------------------------------------------------------

_MEANINGS = {
    "url": "the post's address",
    "caption": "the text under the video",
    "published_at": "when it was published: ISO 8601, UTC",
    "cover_url": "the cover picture",
    "duration": "seconds",
    "views": "how often it was played",
    "likes": "how many like it",
    "shares": "how often it was shared",
    "saves": "how often it was saved",
    "hashtags": "without the #",
    "mentions": "user names without the @",
    "music": "the sound it uses",
    "is_sponsored": "whether it is marked as advertising",
    "title": "the sound's title",
    "author": "who made the sound",
    "original": "whether it was recorded for this post",
    "comment_id": "the comment's id",
    "text": "what it says",
    "reply_count": "how many replies it has",
    "author_username": "who wrote it",
    "author_picture": "the writer's picture",
}


def _attributes(documented: type) -> dict[str, str]:
    """What a Google-style docstring says of each attribute."""
    docstring = griffe.Docstring(inspect.getdoc(documented) or "")
    return {
        attribute.name: attribute.description
        for section in docstring.parse("google", warnings=False)
        if isinstance(section, griffe.DocstringSectionAttributes)
        for attribute in section.value
    }


def _meaning(described: dict[str, str], name: str) -> str:
    if name not in described:
        raise LookupError(f"describe the field {name} in _MEANINGS of docs/_tools/tables.py")
    return described[name]


def _fields(row: type) -> str:
    described = _attributes(row)
    return _table(
        ("field", "type in tables", "meaning"),
        (
            (f"`{f.name}`", f"`{f.type}`", _MEANINGS.get(f.name) or _meaning(described, f.name))
            for f in frames.schema(row)
        ),
    )


# --- the command ----------------------------------------------------------------------------------


def _markdown(text: str) -> str:
    """rich's markup as Markdown."""
    text = re.sub(r"\[cyan\](.*?)\[/cyan\]", r"`\1`", text)
    text = re.sub(r"\[bold\](.*?)\[/bold\]", r"**\1**", text)
    text = re.sub(r"\[dim\].*?\[/dim\]", "", text)
    return text.replace("\\[", "[").strip()


def _metavar(parameter: Any) -> str:
    """What stands for a value in a usage line."""
    if parameter.metavar:
        return str(parameter.metavar)
    if isinstance(parameter.default, enum.Enum):
        return "|".join(each.value for each in type(parameter.default))
    return {int: "N", float: "X"}.get(
        type(parameter.default), "N" if parameter.min == 0 else "TEXT"
    )


def _parameters(command: Any, context: Any) -> str:
    def rows() -> Iterator[tuple[str, str, str]]:
        for parameter in command.get_params(context):
            if parameter.param_type_name == "argument":
                name = f"`{_metavar(parameter)}`"
            else:
                name = ", ".join(f"`{option}`" for option in parameter.opts)
                if not parameter.is_flag:
                    name += f" `{_metavar(parameter)}`"
            default = getattr(parameter.default, "value", parameter.default)
            shown = "" if default in (None, False, ...) else f"`{default}`"
            text = _markdown(getattr(parameter, "help", None) or "")
            yield name, "required" if parameter.required else shown, text

    return _table(("argument or option", "default", "meaning"), rows())


def _epilog(text: str) -> str:
    """The examples of a command's help as a list, and what is said after them."""
    lines = [line for line in _markdown(text).split("\n\n") if line.strip()]
    return "\n".join(
        f"- {line}" if re.fullmatch(r"`.*`", line, re.DOTALL) else f"\n{line}" for line in lines
    )


def _commands() -> str:
    # click's classes, which newer typers carry in themselves: so they have no name here.
    root: Any = typer.main.get_command(app)
    parts = [_markdown(root.help or "")]
    for name, command in root.commands.items():
        context = command.make_context(name, [], resilient_parsing=True)
        usage = " ".join(
            _metavar(each) for each in command.params if each.param_type_name == "argument"
        )
        parts += [
            f"## tokfluence {name} {{ #{name} }}",
            f"```text\ntokfluence {name} [OPTIONS] {usage}\n```",
            _markdown(inspect.cleandoc(command.help or "")),
            _parameters(command, context),
        ]
        if command.epilog:
            parts += ["Examples:\n", _epilog(command.epilog)]
    return "\n\n".join(parts)


# --- the design pages -----------------------------------------------------------------------------


def _design() -> str:
    """The title of each, and the first paragraph that is one."""

    def rows() -> Iterator[tuple[str, str]]:
        for path in sorted((Path(__file__).parents[1] / "design").glob("*.md")):
            if path.stem != "index":
                head, *rest = path.read_text("utf-8").split("\n\n")
                prose = next((part for part in rest if re.match(r"[A-Z`*]", part)), "")
                yield f"[{head.lstrip('# ').splitlines()[0]}]({path.name})", _first_sentence(prose)

    return _table(("page", "what it is about"), rows())


TABLES: dict[str, Callable[[], str]] = {
    "prices": _prices,
    "errors": _errors,
    "error tree": _error_tree,
    "client": lambda: _arguments(TokfluenceClient),
    "throttle": lambda: _arguments(Throttle),
    "sandbox": lambda: _arguments(Sandbox),
    "crawl": lambda: _arguments(crawl),
    "resolve": lambda: _arguments(Posts.resolve),
    "analyze": lambda: _arguments(Posts.analyze),
    "commands": _commands,
    "design": _design,
    "post fields": lambda: _fields(Post),
    "music fields": lambda: _fields(Music),
    "comment fields": lambda: _fields(Comment),
}
