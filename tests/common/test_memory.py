"""Freed blocks go back: measured in a process of its own, since the setting is for good."""

import subprocess
import sys

import pytest

MEASURE = """
import sys
from manikin.common.memory import give_back_large_blocks

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

if sys.argv[1] == "told" and not give_back_large_blocks():
    print(-1)
    sys.exit()
del (first := [bytearray(8 << 20)])[:]  # glibc learns from it to keep such blocks
before, pinned = resident(), []
for _ in range(20):
    block = bytes(bytearray(b"x") * (4 << 20))
    pinned.append(bytes(2000))  # something small above it
    del block
kept = resident() - before
print(kept)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_blocks_are_given_back():
    done = subprocess.run([sys.executable, "-c", MEASURE, "told"], capture_output=True, text=True, check=True)
    kept = int(done.stdout)
    if kept < 0:
        pytest.skip("this C library cannot be told")
    assert kept < 2000
