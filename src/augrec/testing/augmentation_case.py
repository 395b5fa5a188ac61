"""What an augmentation check is given: the plug-in on a backbone with an objective, whole, off, and silenced."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from augrec.experiment.build import fit as fit_plain
from augrec.experiment.registry import find
from augrec.seams import Additions, Plugin, Prepared
from augrec.testing.assemble import Trial, assemble
from augrec.testing.asserting import require
from augrec.testing.backbone_case import BackboneCase
from augrec.testing.logs import tiny_log
from augrec.train.prepare import prepare
from augrec.train.streams import Streams

if TYPE_CHECKING:
    from augrec.backbones.base import Backbone
    from augrec.batches.batch import Batch
    from augrec.data.interactions import Interactions
    from augrec.seams import Encoded
    from augrec.typed import Config


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What a plug-in does that others must not do unless they say so."""

    phases_reach_encoder: bool = False
    """The losses of its own phases send a gradient into the encoder."""
    ranking_reaches_own: bool = False
    """The ranking loss sends a gradient into the parameters of its own groups."""
    draws_seen_items: bool = False
    """Its negatives may be items of the user's train history."""
    largest_mb: float = 0.0
    """Largest single tensor it may make on the memory check's log (60 targets, 1,500 users, 1,200 items), in MiB; 0
    allows half of a users x items matrix in float32."""


@dataclass(frozen=True, kw_only=True)
class AugmentationCase:
    """An augmentation under test."""

    plugin: Any
    config: Config
    off: Config | None
    """The same switched off (`Plugin.off`); None where the plug-in has no such setting."""
    backbone: BackboneCase
    objective: str
    declared: Declared
    prepared: dict[str, Prepared] = field(default_factory=dict)
    """What was prepared already, by key: the checks of a case share it as the runs of a comparison do."""

    def anew(self) -> AugmentationCase:
        """The same case with nothing prepared yet."""
        return replace(self, prepared={})

    @classmethod
    def of(
        cls,
        plugin: Any,
        config: Config | None,
        off: Config | None,
        backbone: Any,
        objective: str | None,
        declared: Declared,
    ) -> AugmentationCase:
        """From a class as the registry wants it, with its typed config as `Class.Config`."""
        settings = plugin.Config() if config is None else config
        if off is None and set(plugin.off) <= set(type(settings).model_fields):
            off = settings.model_copy(update=dict(plugin.off))
        base = backbone if isinstance(backbone, BackboneCase) else BackboneCase.of(backbone)
        case = cls(
            plugin=plugin,
            config=settings,
            off=off,
            backbone=base,
            objective=objective or base.objective,
            declared=declared,
        )
        made, goal = case.made(), find(case.objective, ("objective",), option="objective").load()
        if objective is None and (made.acts & goal.refuses or (made.needs.negatives and not goal.samples)):
            case = replace(case, objective="bpr")
        if made.needs.mask_token:
            inner = base.make
            case = replace(case, backbone=replace(base, make=lambda log, **options: inner(log, mask_token=True)))
        return case

    @property
    def kind(self) -> str:
        """The backbone's."""
        return self.backbone.fresh().kind

    def made(self, log: Interactions | None = None, *, config: Config | None = None, seed: int = 0) -> Plugin:
        """The plug-in, from its own stream of the seed."""
        backbone = self.backbone.fresh(log)
        with Streams(seed).use(f"initialisation/{self.plugin.name}"):
            plugin: Plugin = self.plugin(
                config or self.config, kind=backbone.kind, dim=backbone.dim, n_items=backbone.n_items
            )
        return plugin

    def trial(
        self,
        log: Interactions | None = None,
        *,
        plugin: Plugin | None = None,
        seed: int = 0,
        objective: str | None = None,
        backbone: Any = None,
        **settings: Any,
    ) -> Trial:
        """Backbone, objective and plug-in, prepared, ready to train."""
        train = tiny_log() if log is None else log
        used = self.made(train, seed=seed) if plugin is None else plugin
        plugins = [used] if used.active else []
        train = prepare(plugins, train, fit_plain, seed=seed, cache=None, made=self.prepared)
        make = backbone or self.backbone.make
        return assemble(make, objective or self.objective, plugins, train, seed=seed, **settings)

    def plain(self, log: Interactions | None = None, *, seed: int = 0, backbone: Any = None, **settings: Any) -> Trial:
        """The same without any plug-in."""
        train = tiny_log() if log is None else log
        return assemble(backbone or self.backbone.make, self.objective, (), train, seed=seed, **settings)

    def without_dropout(self, log: Interactions) -> Backbone:
        """The backbone with every dropout at 0."""
        made = self.backbone.make(log)
        for module in made.modules():
            if "dropout" in type(module).__name__.lower() and hasattr(module, "p"):
                module.p = 0.0  # type: ignore[assignment]
        return made


def silence(plugin: Plugin) -> Plugin:
    """The same plug-in as a *live zero*: it draws and computes everything, and contributes nothing."""
    targets, losses = plugin.targets, plugin.losses

    def quiet_targets(batch: Batch, encoded: Encoded) -> Additions:
        found = targets(batch, encoded)
        return Additions(
            weights=None if found.weights is None else torch.ones_like(found.weights),
            positives=tuple(replace(one, weight=0.0) for one in found.positives),
            offsets=tuple(replace(one, weight=0.0) for one in found.offsets),
        )

    def quiet_losses(batch: Batch, encoded: Encoded) -> dict[str, torch.Tensor]:
        return {name: term * 0.0 for name, term in losses(batch, encoded).items()}

    plugin.targets, plugin.losses = quiet_targets, quiet_losses  # type: ignore[method-assign]
    return plugin


class Largest(TorchDispatchMode):
    """Notes the largest tensor made inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.what = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if not isinstance(one, torch.Tensor):
                continue
            # A sparse matrix has no storage of its own; its values stand for it.
            held = one.values() if one.layout == torch.sparse_csr else one
            if held.untyped_storage().nbytes() > self.bytes:
                self.bytes, self.what = held.untyped_storage().nbytes(), f"{func} {tuple(one.shape)}"
        return out


def ask(trial: Trial, batch: Batch) -> tuple[Encoded, Additions, dict[str, torch.Tensor]]:
    """The encoding of a batch, and what the trial's one plug-in adds to it and loses on it."""
    plugin: Any = trial.step.plugins[0]
    encoded = trial.step.encode(batch)
    with trial.step.streams.use(f"plugin/{plugin.name}"):
        additions = plugin.targets(batch, encoded)
        if additions.replaced is not None:
            encoded = replace(encoded, negatives=additions.replaced)
        terms = dict(plugin.losses(batch, encoded))
    require(isinstance(additions, Additions), f"targets() gave a {type(additions).__name__}, not seams.Additions")
    return encoded, additions, terms
