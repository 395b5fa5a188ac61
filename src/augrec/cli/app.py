"""The application object and what its commands share."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from augrec import __version__
from augrec.console import print_json as print_json

Json = Annotated[bool, Parameter(name="--json", negative="")]
Flag = Parameter(negative="")

app = App(name="augrec", help="Diffusion augmentation for any recommender.", version=__version__)
data_app = App(name="data", help="Data sets by name or path.")
app.command(data_app)
