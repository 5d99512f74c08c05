"""Giving memory back: large blocks go to the system as soon as they are freed.

glibc learns from freed blocks to keep ones of up to 32 MiB for later, in each thread's own pool. A coordinator that
takes in pieces of models, thread by thread, would hold two models' worth of such blocks, and use none of them. Where
there is no glibc this does nothing.
"""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3  # malloc.h
KEPT_BYTES = 1 << 20


def give_back_large_blocks() -> bool:
    """From now on, in this process; whether the C library could be told."""
    try:
        return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, KEPT_BYTES))
    except (AttributeError, OSError):
        return False
