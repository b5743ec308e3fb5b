#!/usr/bin/env python3
"""Refuse large files, such as weights and data, before they are committed. A hook of .pre-commit-config.yaml gives the file names."""

import sys
from pathlib import Path

LIMIT = 3_000_000  # bytes


def main() -> int:
    large = [path for path in map(Path, sys.argv[1:]) if path.is_file() and path.stat().st_size > LIMIT]
    for path in large:
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB is too large for this repository; keep weights and data outside of it")
    return bool(large)


if __name__ == "__main__":
    sys.exit(main())
