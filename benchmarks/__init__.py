"""What the SDK costs and what it saves, measured beside what a user would write instead; `python -m
benchmarks`."""
