"""What every command shares: progress, plain speech, and the last line of JSON."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

PLAIN_INTERVAL_S = 5.0


def say(text: str = "") -> None:
    """A line for a person, on standard output."""
    print(text, flush=True)


def finish(result: dict[str, Any], json_output: bool, *, next_step: str = "") -> None:
    """End a command: what to do next, and with `--json` one JSON object as the last line."""
    if next_step:
        say(f"Next: {next_step}")
    if json_output:
        print(json.dumps(result, sort_keys=True, allow_nan=False), flush=True)


@contextlib.contextmanager
def progress_bar(title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Progress on a terminal, a plain line every few seconds elsewhere; yields `advance(units)`."""
    if sys.stdout.isatty():
        with _rich_progress(title, total) as advance:
            yield advance
    else:
        yield _plain_progress(title, total)
        say(f"{title}: done")


@contextlib.contextmanager
def _rich_progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns) as bar:
        task = bar.add_task(title, total=total)
        yield lambda units: bar.advance(task, units)


def _plain_progress(title: str, total: int | None) -> Callable[[int], None]:
    done, last = 0, time.monotonic()

    def advance(units: int) -> None:
        nonlocal done, last
        done += units
        if time.monotonic() - last >= PLAIN_INTERVAL_S:
            last = time.monotonic()
            say(f"{title}: {done}" + (f" of {total}" if total else ""))

    return advance
