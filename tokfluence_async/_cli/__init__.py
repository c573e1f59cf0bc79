"""The `tokfluence` command: arguments, progress, exit statuses. All work is done by what users
import, too.

- `app`: the commands and their help.
- `runtime`: one run: loop, client or embedded sandbox, signals, errors to exit statuses.
- `inputs`: FILE or standard input as lines, read as they are needed.
- `output`: rows to standard output.
- `screen`: what people see, on standard error.
"""

from .app import app

__all__ = ["app"]
