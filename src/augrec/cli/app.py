"""The application object and what its commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from augrec import __version__
from augrec.console import print_json as print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import Token

Json = Annotated[bool, Parameter(name="--json", negative="")]
Flag = Parameter(negative="")


def _whole(kind: object, tokens: Sequence[Token]) -> int:
    """An integer as it is written; cyclopts by itself would cut 1.5 to 1."""
    return int(tokens[0].value)


Whole = Parameter(converter=_whole)

app = App(name="augrec", help="Diffusion augmentation for any recommender.", version=__version__)
data_app = App(name="data", help="Data sets by name or path.")
app.command(data_app)
