"""`asyncfl keygen`: make one party's key pair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from asyncfl.errors import ConfigurationError
from asyncfl.identity import Identity
from node.commands.common import JsonFlag, output, write_json
from node.deployment_files import write_key, write_public_key


def keygen(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The node's name, such as replica-1.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write NAME.key and NAME.pub.")] = Path(
        "keys"
    ),
    json: JsonFlag = False,
) -> None:
    """Make a key pair for one party, on its own machine.

    NAME.key is private (mode 0600) and stays; NAME.pub goes to the operator, who runs
    [bold]asyncfl init --public-keys[/] and sends deployment.toml and model.safetensors back.

    [bold]Examples[/]

    asyncfl keygen replica-1

    asyncfl keygen client-7 --out hospital/keys --json
    """
    from asyncfl.deployment_fields import is_name

    if not is_name(name):
        raise ConfigurationError(
            f"{name!r} is no name for a node: 1 to 64 letters, digits, '.', '_' or '-' are needed, the first "
            "a letter or digit"
        )
    identity = Identity.generate()
    private, public = out / f"{name}.key", out / f"{name}.pub"
    write_key(private, identity)
    write_public_key(public, name, identity.public)
    if json:
        facts = {
            "name": name,
            "public_key": identity.public.hex(),
            "key_file": str(private),
            "pub_file": str(public),
        }
        write_json(facts, Path("-"))
        return
    output.print(f"public key  {identity.public.hex()}")
    output.print(f"private     {escape(str(private))}  stays on this machine, mode 0600", soft_wrap=True)
    output.print(f"public      {escape(str(public))}  send it to the operator", soft_wrap=True)
