"""`manikin hospital vault`: run the vault in the foreground, behind its socket and without a network."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from manikin.cli.console import say


def vault(
    hospital: Annotated[Path, typer.Option("--hospital", help="The hospital's folder.")],
    socket: Annotated[
        Path | None, typer.Option("--socket", help="Where it listens; DIR/run/vault.sock if not given.")
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", help="The group that the gateway's user shares with the vault's.")
    ] = None,
    network: Annotated[
        bool, typer.Option("--network/--no-network", help="Give up the protection of having no network.")
    ] = False,
) -> None:
    """Run the vault until it is told to end. It has no network; the gateway reaches it by its socket."""
    from manikin.client import isolation
    from manikin.client.service.access import check_private, group_id
    from manikin.client.service.server import prepare_directory

    path = (socket or hospital / "run" / "vault.sock").absolute()
    check_private(hospital)
    prepare_directory(path, None if group is None else group_id(group))
    if not network:
        isolation.ensure(_command(hospital, path))
    say("No network." if isolation.isolated() else "This vault has a network, as asked with --network.")
    _serve(hospital, path)


def _command(hospital: Path, path: Path) -> list[str]:
    """This very command, with the group settled; -P keeps modules that lie in the current folder out."""
    return [sys.executable, "-P", "-m", "manikin", "hospital", "vault", f"--hospital={hospital}", f"--socket={path}"]


def _serve(hospital: Path, path: Path) -> NoReturn:
    from manikin.client.metered import Logged
    from manikin.client.service.server import VaultService, claim, serve
    from manikin.common.logs import open_log, take_over

    os.umask(0o077)  # whatever the vault writes is its own
    with claim(path):
        import torch

        from manikin.client.vault import Vault

        torch.set_num_threads(1)
        vault, log = Vault(hospital), open_log("vault")
        take_over(log)
        serve(VaultService(Logged(vault, log), path), ready=lambda: say(f"{vault.cohort.name}: listening at {path}"))
        say("Ended; what was begun is in the ledger.")
        os._exit(0)  # a step under way is not waited for: asked again, it gives the same bytes
