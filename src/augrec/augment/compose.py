"""Which parts can stand together: every pair that cannot is refused when a run is built, naming both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from augrec.errors import UnsupportedCombinationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from augrec.backbones.base import Backbone
    from augrec.seams import Objective, Plugin


def _goal(backbone: Backbone) -> str:
    return "another objective" if backbone.objective is None else f"--objective {backbone.objective}, or leave it out"


def check_kind(backbone: Backbone | type[Backbone], plugin: Plugin | type[Plugin]) -> None:
    """Raises `UnsupportedCombinationError` for a plug-in on a kind of backbone it does not know; takes classes too, so
    that it can be asked before anything is made."""
    if backbone.kind not in plugin.needs.kinds:
        raise UnsupportedCombinationError(
            f"augmentation '{plugin.name}' works on {' and '.join(sorted(plugin.needs.kinds))} backbones, "
            f"'{backbone.name}' is a {backbone.kind} backbone; choose another of either"
        )


def check_combination(backbone: Backbone, objective: Objective, plugins: Sequence[Plugin]) -> None:
    """Raises `UnsupportedCombinationError` for a backbone, objective and plug-ins that cannot work together."""
    if backbone.kind not in objective.needs.kinds:
        raise UnsupportedCombinationError(
            f"objective '{objective.name}' does not work on '{backbone.name}' (a {backbone.kind} backbone); choose "
            f"{_goal(backbone)}"
        )
    if not backbone.causal and backbone.masking is None:
        raise UnsupportedCombinationError(
            f"backbone '{backbone.name}' sees a row both ways but hides nothing in it, so that objective "
            f"'{objective.name}' would ask for items that stand in the input; set the backbone's `masking`, or choose "
            f"a causal backbone (sasrec, gru4rec)"
        )
    names = [plugin.name for plugin in plugins]
    for name in names:
        if names.count(name) > 1:
            raise UnsupportedCombinationError(f"augmentation '{name}' is named twice; name it once")
    replacing = [plugin.name for plugin in plugins if "replace" in plugin.acts]
    if len(replacing) > 1:
        raise UnsupportedCombinationError(
            f"augmentations '{replacing[0]}' and '{replacing[1]}' both replace the negatives; keep one of them"
        )
    for plugin in plugins:
        check_kind(backbone, plugin)
        clash = sorted(plugin.acts & objective.refuses)
        if clash:
            raise UnsupportedCombinationError(
                f"augmentation '{plugin.name}' acts on '{clash[0]}', which objective '{objective.name}' has no use for "
                f"(every item is a negative already); choose --objective bpr or bce"
            )
        if plugin.needs.negatives and not objective.samples:
            raise UnsupportedCombinationError(
                f"augmentation '{plugin.name}' with these settings reads sampled negatives, and objective "
                f"'{objective.name}' draws none; "
                f"choose --objective bpr or bce"
            )
        if plugin.needs.mix and not backbone.mixes:
            raise UnsupportedCombinationError(
                f"augmentation '{plugin.name}' with these settings runs the backbone's own transformer layers, and "
                f"'{backbone.name}' has none; choose a transformer backbone (sasrec, bert4rec), or set "
                f"the augmentation to a network of its own"
            )
