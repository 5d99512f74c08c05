"""A hospital on one machine: its vault without a network and its gateway, each a process, kept alive together.

Where the machine has systemd or containers, those keep the two apart better (`deploy/`); this is for a first study, and
for the demo. Both run as this user, unless root names another for the gateway.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

from manikin.client.gateway import Gateway
from manikin.client.service import SocketPort
from manikin.client.service.access import group_id
from manikin.common.errors import ManikinError, Misconfigured, TransportFailure
from manikin.common.processes import GRACE_S, WATCH_S, Supervised, ending_signals, only_one, supervising, wait_until

VAULT_START_S = 300.0  # a cohort of some size is opened before the vault answers
COMMAND = (sys.executable, "-P", "-m", "manikin", "hospital")


def hospital_processes(
    hospital: Path, *, group: str | None = None, gateway_user: str | None = None, network: bool = False
) -> tuple[Supervised, Supervised, Path]:
    """Vault and gateway, not started, and the socket between them.

    Raises:
        Misconfigured: the gateway is not ready, or another user is asked for by somebody who is not root.
    """
    gateway = Gateway.open(hospital / "gateway")
    socket = (hospital / "run" / "vault.sock").absolute()
    gateway_group = None
    if gateway_user is not None:
        gateway_group = _give(gateway.folder, gateway_user, group)
        group = str(gateway_group)  # the vault opens its socket to it
    vault = [*COMMAND, "vault", "--hospital", str(hospital.absolute()), "--socket", str(socket)]
    vault += ["--group", group] if group else []
    vault += ["--network"] if network else []
    relay = [*COMMAND, "gateway", "--gateway", str(gateway.folder), "--socket", str(socket)]
    logs = hospital.absolute() / "logs"
    return (
        Supervised("vault", vault, logs / "vault.log"),
        Supervised(
            "gateway",
            relay,
            logs / "gateway.log",
            user=gateway_user,
            group=gateway_group,
            grace_s=3 * GRACE_S,  # it ends two processes itself
        ),
        socket,
    )


def start_hospital(
    hospital: Path, *, group: str | None, gateway_user: str | None, network: bool, say: Callable[[str], None]
) -> None:
    """Run vault and gateway until SIGTERM or Ctrl-C, and end both.

    Raises:
        Misconfigured: something is missing, or this hospital is running already.
        TransportFailure: the vault does not start; its own words are given.
    """
    Gateway.open(hospital / "gateway")  # what is no hospital's folder is left as it is
    with contextlib.ExitStack() as running:
        running.enter_context(only_one(hospital / "start.lock", "This hospital"))
        vault, gateway, socket = hospital_processes(hospital, group=group, gateway_user=gateway_user, network=network)
        running.enter_context(ending_signals())
        running.enter_context(supervising([vault, gateway]))
        running.enter_context(contextlib.suppress(KeyboardInterrupt))
        start_vault(vault, socket)
        say("The vault is open" + (", with a network as asked." if network else ", and has no network."))
        gateway.start()
        say(f"The gateway is connecting. Logs: {vault.log.parent}. Ctrl-C ends both; nothing is lost by that.")
        while True:
            vault.watch()
            gateway.watch()
            time.sleep(WATCH_S)
    say("Ended.")


def start_vault(vault: Supervised, socket: Path) -> None:
    """Start a vault and return when it answers; from then on it is started again when it dies.

    Raises:
        TransportFailure: it ends instead.
    """
    vault.restart = False
    vault.start()
    port = SocketPort(socket, connect_s=0.0)

    def answers() -> bool:
        with contextlib.suppress(ManikinError):
            port.ready()
            return vault.ended() is None  # otherwise another one answers
        return False

    try:
        wait_until(answers, [vault], timeout_s=VAULT_START_S, what="Opening the vault")
    except TransportFailure as failure:
        raise TransportFailure(failure.what, vault.last_words(), failure.next_step) from None
    vault.restart = True


def _give(folder: Path, user: str, group: str | None) -> int:
    """Give the gateway's user what it writes to and reads; its group alone `gateway/` itself and the outbox.

    What is in a folder that it may write to, it may have put there: links are not followed, and a file with another
    name elsewhere stays as it is.

    Returns:
        The group that the gateway runs with, and no other: the one that is named, or its user's own.

    Raises:
        Misconfigured: whoever asks is not root, there is no such user or group, or it is root's.
    """
    if os.geteuid() != 0:
        raise Misconfigured("Only root can run the gateway as another user.", "", "Leave out --gateway-user.")
    try:
        known = pwd.getpwnam(user)
    except KeyError:
        raise Misconfigured(f"There is no user {user!r}.", "", "Make it first.") from None
    uid, gid = known.pw_uid, group_id(group) if group else known.pw_gid
    if 0 in (uid, gid):
        raise Misconfigured(
            "The gateway would keep root's rights.",
            "",
            "Name a user that is not root, and a --group that is not root's.",
        )
    vault = folder.parent.stat().st_uid
    for place, _, files, opened in os.fwalk(folder, follow_symlinks=False):
        part = Path(place).relative_to(folder).parts
        os.fchown(opened, uid if part and part[0] != "outbox" else vault, gid)
        for name in files:
            _give_file(name, opened, vault if part and part[0] == "outbox" else uid, gid)
    return gid


def _give_file(name: str, folder: int, uid: int, gid: int) -> None:
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:  # a link, a socket, or gone
        return
    try:
        found = os.fstat(opened)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            os.fchown(opened, uid, gid)
    finally:
        os.close(opened)
