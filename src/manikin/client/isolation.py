"""No network for the process that can see scans: get into a network namespace of its own, and check from inside.

The check asks the kernel, so it holds however the isolation came about: `unshare --net`, systemd's
`PrivateNetwork=yes`, `network_mode: none`. What is not promised: a vault that runs as root could leave its namespace
again, so a hospital runs it as a user of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from manikin.common.errors import Misconfigured

DEVICES = Path("/proc/self/net/dev")  # of this process's namespace, which /sys/class/net need not be

# What an empty namespace may hold: loopback, and the tunnels that loaded kernel modules put into every new one. They
# lead nowhere without another interface.
EMPTY = frozenset({"lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip6gre0", "ip_vti0", "ip6_vti0"})
OUTSIDE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))  # RFC 5737 and 3849: nobody's addresses
WAYS = (("--net",), ("--user", "--map-current-user", "--net"))  # as root, and as a user
FIRST_DESCRIPTOR = 3
PROBE_S = 10.0
ENTERED = "MANIKIN_WITHOUT_NETWORK"  # set for the command that was begun again, so that it does not begin forever


def interfaces(table: str | None = None) -> list[str]:
    """Names of the network interfaces that this process has, loopback and empty tunnels left out.

    >>> interfaces("Inter-| Receive\\n face |bytes\\n    lo: 0 0\\n  eth0: 9 9\\n")
    ['eth0']
    """
    lines = (DEVICES.read_text() if table is None else table).splitlines()[2:]
    names = [line.partition(":")[0].strip() for line in lines]
    return [name for name in names if name not in EMPTY]


def routes() -> list[str]:
    """Outside addresses to which this process has a route. Nothing is sent: a UDP connect only asks for the route."""
    found = []
    for family, address in OUTSIDE:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            found.append(address)
    return found


def isolated() -> bool:
    """Whether this process has no network."""
    return not interfaces() and not routes()


def ensure(command: Sequence[str]) -> None:
    """Return if this process has no network; become `command` without one if it has.

    Open files and sockets other than the standard ones do not come along: one that was inherited would reach through
    the wall.

    Raises:
        Misconfigured: this system does not let this user do without a network.
    """
    if isolated():
        return
    if ENTERED in os.environ:
        raise _no_way(f"Inside there still is: {', '.join(interfaces() + routes())}.")
    prefix = prefix_without_network()
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= FIRST_DESCRIPTOR:
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), False)
    os.execve(prefix[0], [*prefix, *command], os.environ | {ENTERED: "1"})  # noqa: S606 (no shell is wanted)


def prefix_without_network() -> list[str]:
    """The first words of a command line that runs the rest of it without a network; tried out before it is given.

    Raises:
        Misconfigured: no way works here.
    """
    unshare, cat = shutil.which("unshare"), shutil.which("cat")
    for way in WAYS if unshare and cat else ():
        prefix = [str(unshare), *way, "--"]
        probe = [*prefix, str(cat), str(DEVICES)]
        done = subprocess.run(probe, capture_output=True, text=True, timeout=PROBE_S, check=False)  # noqa: S603
        if done.returncode == 0 and not interfaces(done.stdout):
            return prefix
    raise _no_way("The command unshare is missing, or this system does not let this user make a network namespace.")


def _no_way(why: str) -> Misconfigured:
    return Misconfigured(
        "The vault cannot be cut off from the network here.",
        why,
        "Run it as a service with PrivateNetwork=yes or network_mode: none, or give that protection up with --network.",
    )
