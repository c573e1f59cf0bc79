"""Which store a name means: the path of a file, or the URL of a Redis.

Loads redis-py only where a Redis is named.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from .._errors import ConfigurationError
from .._redis_py.client import SCHEMES, connect
from .._wire.secret import Secret
from .store import Store

__all__ = ["check_ip", "check_shared", "open_store"]

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://", re.ASCII)


def check_shared(shared: str | os.PathLike[str] | None) -> str | None:
    """The store that `shared` names, or None where it names none.

    Raises:
        ConfigurationError: It is neither a file that can be there nor the URL of a Redis.
    """
    if shared is None or shared == "":
        return None
    try:
        text = os.fspath(shared)
    except TypeError:
        text = None
    if not isinstance(text, str) or "\0" in text or "\n" in text:
        kind = type(shared).__name__
        raise ConfigurationError(
            f"shared is the path of a file, or a URL such as redis://host:6379/0; not {kind}"
            if not isinstance(text, str)
            else "shared holds a character that no path and no URL has"
        )
    scheme = _SCHEME.match(text)
    if scheme is None:
        return _check_path(text)
    if scheme[1].lower() not in SCHEMES:
        raise ConfigurationError(
            f"shared is the path of a file, or a URL that begins with redis://, rediss:// or "
            f"unix://; not {scheme[1]}://"
        )
    connect(Secret(text), "A shared throttle", 1.0)
    return text


def _check_path(text: str) -> str:
    path = Path(text).expanduser()
    # The folder that the process works in may change; the file may not.
    path = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow a link of today
    if path.is_dir():
        raise ConfigurationError(f"shared names a folder, {path}; it has to be a file in one")
    if not path.parent.is_dir():
        raise ConfigurationError(f"shared names a file in a folder that is not there: {path}")
    return str(path)


def check_ip(ip: object) -> str:
    """The name of an address.

    Raises:
        ConfigurationError: It is no text, or an empty one.
    """
    if not isinstance(ip, str) or not ip:
        raise ConfigurationError(f"ip is a name for the address of this process; not {ip!r}")
    return ip


def open_store(shared: str, clock: str | None) -> Store:
    """The store; nothing is read or sent yet.

    Args:
        shared: As `check_shared` returned it.
        clock: The name of the clock that its callers are on, where it is not this machine's.
    """
    if _SCHEME.match(shared):
        from .redis_store import RedisStore

        return RedisStore(Secret(shared))
    from .file_store import FileStore

    return FileStore(shared, clock)
