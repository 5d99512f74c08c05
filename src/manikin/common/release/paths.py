"""File names inside a bundle: POSIX, relative, plain, and the same on every file system."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

NAME_MAX = 200
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def is_safe_name(name: str) -> bool:
    """Whether a name stays inside the bundle whatever the system makes of it.

    >>> [is_safe_name(name) for name in ("audit/report.html", "../x", "/x", "a//b", ".hidden", "a\\\\b", "")]
    [True, False, False, False, False, False, False]
    """
    parts = PurePosixPath(name).parts
    return len(name) <= NAME_MAX and name == "/".join(parts) and all(map(PART.fullmatch, parts)) and bool(parts)
