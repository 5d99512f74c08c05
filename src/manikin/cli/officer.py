"""`manikin officer`: the key of a person who decides on releases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manikin.cli.console import finish, say

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def _group() -> None:
    """Keeps `init` a command of its own while it is the only one."""


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the key goes, such as officer.pem; a new file.")],
    name: Annotated[str, typer.Option("--name", help="Your name, as it will stand in releases.")],
    institution: Annotated[str, typer.Option("--institution", help="For whom you decide.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")] = False,
) -> None:
    """Make an officer's key, and beside it the card that the coordinator accepts you by."""
    from pydantic import ValidationError

    from manikin.common import agreements
    from manikin.common.errors import Misconfigured
    from manikin.common.files import write_atomically
    from manikin.common.keys import SigningKey, fingerprint

    key, place = SigningKey.generate(), file.with_suffix(".dsse.json")
    try:
        card = agreements.OfficerCard(name=name, institution=institution, key=key.public_key.hex())
    except ValidationError as error:
        raise Misconfigured(
            f"This cannot be an officer's {error.errors()[0]['loc'][0]}.",
            "It is up to 64 letters, digits and spaces.",
            "Correct --name or --institution.",
        ) from None
    if place.exists():
        raise Misconfigured(f"{place.name} exists.", "A card is never overwritten.", "Choose another name.")
    key.save(file)
    write_atomically(place, agreements.write(card, key))
    own = fingerprint(key.public_key)
    say(f"{name} ({institution}) has a key. Whoever has the file decides in your name: keep {file.name} to yourself.")
    say(f"To be read out when the coordinator calls: {own}")
    result = {"officer": name, "institution": institution, "fingerprint": own, "key": str(file), "card": str(place)}
    finish(result, json_output, next_step=f"send {place} to the coordinator")
