"""The application object and what its commands share."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

from cyclopts import App, Parameter

from augrec import __version__

Json = Annotated[bool, Parameter(name="--json", negative="")]
Flag = Parameter(negative="")

app = App(name="augrec", help="Diffusion augmentation for any recommender.", version=__version__)
data_app = App(name="data", help="Data sets by name or path.")
app.command(data_app)


def print_json(values: Any) -> None:
    """Prints values for machines."""
    sys.stdout.write(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
