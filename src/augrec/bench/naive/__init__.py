"""The plug-ins as a straightforward reading of their papers or published code makes them: what a row is compared with.

They give what the plug-ins give (tests hold both to the same numbers on the same draws) and take the usual way there:
every candidate gathered with gradient, every step of the chain, scores of every padded place and item, a loop over
users. They run in our own training step, so a row's difference is the method's alone. `naive(plugins)` turns built
plug-ins into them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from augrec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = (
    "adar", "dns", "cns", "mixgcf", "ahns", "dins", "simdiffrec", "cadirec", "cl4srec", "duorec", "hbr", "nns", "dpa",
)  # fmt: skip
"""Plug-ins that have one; what the parts of PDRec prepare before is in `pdrec.prepare_user`."""


def naive(plugins: Iterable[Any]) -> None:
    """Makes each plug-in work naively from now on. Raises `UsageError` for one that has no naive form."""
    from augrec.bench.naive import hard_negatives, pdrec, sequence_views, views

    classes: dict[str, Any] = {
        "dns": hard_negatives.NaiveDNS, "cns": hard_negatives.NaiveCurriculum, "ahns": hard_negatives.NaiveAHNS,
        "mixgcf": hard_negatives.NaiveMixGCF, "dins": hard_negatives.NaiveDINS,
        "simdiffrec": views.NaiveSimDiffRec, "cadirec": views.NaiveCaDiRec,
        "cl4srec": sequence_views.NaiveCL4SRec,
        "hbr": pdrec.NaiveHBR, "nns": pdrec.NaiveNNS, "dpa": pdrec.NaiveDPA,
    }  # fmt: skip
    for plugin in plugins:
        if plugin.name == "duorec":
            if plugin._index is not None:
                plugin._index.__class__ = sequence_views.NaiveSameTarget
        elif plugin.name == "adar":
            generator = plugin.adar.generator
            # Algorithm 1 as written: all T steps of every row, whatever its t*.
            generator.generate = partial(generator.generate, method="naive")
        elif plugin.name in classes:
            plugin.__class__ = classes[plugin.name]
        else:
            raise UsageError(f"{plugin.name} has no naive reference; it has one for {', '.join(NAMES)}")
