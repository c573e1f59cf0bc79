"""`python benchmarks/run.py`, from anywhere: the same as `python -m benchmarks` in the project's
folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
