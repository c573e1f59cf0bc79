"""`failures.jsonl`: the failed inputs of a run, written anew by each run.

The lines of a run are gathered in a second file beside it, which takes its place when the run has
ended, or is removed. A killed run leaves the failures of the run before it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from .._errors import JournalError

__all__ = ["FailureFile"]


class FailureFile:
    """The failures of one run; used by `with`, and `keep` at the end of a run.

    Raises, when it is entered:
        JournalError: The new file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = path.with_name(path.name + ".new")
        self._file: BinaryIO | None = None

    def __enter__(self) -> FailureFile:
        try:
            self._file = self._new.open("wb")
        except OSError as error:
            raise _unwritable(self._new, error, " Nothing was sent.") from error
        return self

    def add(self, line: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(line)
        except OSError as error:
            raise _unwritable(self._new, error) from error

    def keep(self) -> None:
        """Put this run's failures in the place of the last run's."""
        assert self._file is not None
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._new.replace(self._path)
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        try:
            self._file.close()
        except OSError:  # a full disk, which `add` or `keep` has reported
            pass
        finally:
            self._new.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError, more: str = "") -> JournalError:
    return JournalError(f"{path} cannot be written: {error.strerror or error}.{more}")
