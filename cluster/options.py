"""Arguments and options that several commands share, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_STORE = "./results"
DEFAULT_ADDRESS = "http://127.0.0.1:8265"

_store = typer.Option(
    "--store", envvar="SHARELM_STORE", metavar="URI", help="Where tables live: a folder or s3://BUCKET/PREFIX."
)
_address = typer.Option(
    "--address",
    envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
    metavar="URL",
    help=f"The cluster's job server, for example {DEFAULT_ADDRESS}.",
)


def _use_profile(context: typer.Context, name: str | None) -> str | None:
    from cluster.profile import use_profile

    if not context.resilient_parsing:
        use_profile(context, name)
    return name


StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="A study file (TOML).", show_default=False)]
StudyName = Annotated[str, typer.Argument(metavar="NAME", help="A study's name.", show_default=False)]
NameOrFile = Annotated[
    str, typer.Argument(metavar="NAME|STUDY", help="A study's name, or its file (TOML).", show_default=False)
]
Store = Annotated[str, _store]
OptionalStore = Annotated[str | None, _store]
Address = Annotated[str, _address]
OptionalAddress = Annotated[str | None, _address]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        envvar="SHARELM_PROFILE",
        metavar="NAME",
        is_eager=True,  # it gives the other options their defaults
        callback=_use_profile,
        help="A cluster of ~/.config/sharelm/config.toml: its address, store, token file and image.",
    ),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Take a cluster that asks for no token; on this machine's loopback only.")
]
OptionalImage = Annotated[
    str | None,
    typer.Option("--image", envvar="SHARELM_IMAGE", metavar="NAME", help="The image that the nodes are to run."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
