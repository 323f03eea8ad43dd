"""`ibkd push`: a student on the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..display.console import reporter, stdout
from ..options.common import Quiet
from ..options.declare import flag, grouped, option


@dataclass(frozen=True)
class PushOptions:
    """What is published, and as what."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a finished student.", show_default=False)]
    repository: Annotated[
        str,
        typer.Argument(metavar="USER/NAME", help="Its name on the hub; made if it is not there.", show_default=False),
    ]
    private: Annotated[bool, flag("Make the repository private; a public one is refused.", "--private")] = False
    revision: Annotated[
        str | None, option("Branch to push to; made if it is not there.", metavar="NAME", default="main")
    ] = None
    license: Annotated[
        str | None,
        option("Licence, as the hub names it, such as apache-2.0.", metavar="NAME", default="what the card says"),
    ] = None
    language: Annotated[
        tuple[str, ...],
        option("Language code, such as en; repeat for more.", metavar="CODE", default="what the card says"),
    ] = ()
    base_model: Annotated[
        tuple[str, ...],
        option("Model on the hub that it was made from; repeat for more.", metavar="NAME", default="its teachers"),
    ] = ()
    quiet: Quiet = False


@grouped
def push(asked: PushOptions) -> None:
    """Publish a student on the Hugging Face hub.

    The hub's own login is used: `hf auth login`, or the environment variable HF_TOKEN. The card, the files of the
    model and its ibkd.json go up in one commit. Local files are named without their folders.
    """
    import ibkd_retrieval as ibkd

    made = ibkd.push(
        asked.model,
        asked.repository,
        private=asked.private,
        revision=asked.revision,
        license=asked.license,
        language=asked.language,
        base_model=asked.base_model,
        progress=reporter(asked.quiet),
    )
    stdout().print(f"{made.url}: load it with SentenceTransformer({made.repository!r}).")
