"""Names people type, and the classes they stand for. Nothing is imported before it is asked for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from augrec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Family = Literal["backbone", "baseline", "objective", "augmentation"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One name."""

    name: str
    family: Family
    target: str
    """`module:Class`; the class carries its typed config as `Config`."""
    about: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Config fields this name fixes (an arm of a method)."""
    noise: bool = False
    """A control without what the method claims to matter: every comparison of another arm of the class carries it."""
    together: str = ""
    """Parts of one method: in a cell their noise arms stand in for all of them at once."""

    def load(self) -> Any:
        """The class."""
        module, name = self.target.split(":")
        return getattr(import_module(module), name)


def _adar(arm: str, about: str, *, noise: bool = False, **fixed: Any) -> Entry:
    """One arm of ADAR as a name of its own."""
    target = "augrec.augment.adar.plugin:ADAR"
    return Entry(
        name=f"adar-{arm}", family="augmentation", target=target, about=f"ADAR's arm: {about}", fixed=fixed, noise=noise
    )


def _hard(name: str, target: str, about: str) -> Entry:
    """A method that replaces the sampled negatives by harder ones."""
    return Entry(name=name, family="augmentation", target=f"augrec.augment.{target}", about=f"hard negatives: {about}")


def _pdrec(name: str, about: str) -> tuple[Entry, Entry]:
    """A part of PDRec, and the same on random preferences."""
    target = f"augrec.augment.pdrec.{name}:{name.upper()}"
    part = Entry(name=name, family="augmentation", target=target, about=f"PDRec's {about}", together="pdrec")
    control = Entry(
        name=f"{name}-random", family="augmentation", target=target, about=f"{name} on random preferences",
        fixed={"source": "random"}, noise=True, together="pdrec",
    )  # fmt: skip
    return part, control


RECIPES: Mapping[str, tuple[str, ...]] = MappingProxyType({"pdrec": ("hbr", "dpa", "nns")})
"""Names that stand for several augmentations."""


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """`names` with recipes replaced by what they stand for, in place."""
    return tuple(one for name in names for one in RECIPES.get(name, (name,)))


_OWN = (
    Entry(name="mf", family="backbone", target="augrec.backbones.mf:MF", about="matrix factorisation"),
    Entry(
        name="lightgcn",
        family="backbone",
        target="augrec.backbones.lightgcn:LightGCN",
        about="linear graph propagation",
    ),
    Entry(
        name="ngcf",
        family="backbone",
        target="augrec.backbones.ngcf:NGCF",
        about="graph propagation with learned interactions, layers side by side",
    ),
    Entry(
        name="sasrec",
        family="backbone",
        target="augrec.backbones.sasrec:SASRec",
        about="causal transformer over the history",
    ),
    Entry(
        name="bert4rec",
        family="backbone",
        target="augrec.backbones.bert4rec:BERT4Rec",
        about="bidirectional transformer, asked for hidden items",
    ),
    Entry(
        name="gru4rec",
        family="backbone",
        target="augrec.backbones.gru4rec:GRU4Rec",
        about="recurrent network over the history",
    ),
    Entry(
        name="t-diffrec",
        family="backbone",
        target="augrec.backbones.diffrec:TDiffRec",
        about="generative: restores noised histories weighted by order",
    ),
    Entry(
        name="ti-diffrec",
        family="backbone",
        target="augrec.backbones.diffrec:TIDiffRec",
        about="generative: restores noised histories weighted by time",
    ),
    Entry(name="popularity", family="baseline", target="augrec.backbones.popularity:Popularity", about="train counts"),
    Entry(
        name="itemknn", family="baseline", target="augrec.backbones.itemknn:ItemKNN", about="cosine item neighbourhoods"
    ),
    Entry(
        name="ease", family="baseline", target="augrec.backbones.ease:EASE", about="closed-form linear item-item model"
    ),
    Entry(
        name="bpr",
        family="objective",
        target="augrec.objectives.pairwise:BPR",
        about="pairwise ranking, sampled negatives",
    ),
    Entry(
        name="bce",
        family="objective",
        target="augrec.objectives.pointwise:BCE",
        about="binary cross-entropy, sampled negatives",
    ),
    Entry(
        name="softmax",
        family="objective",
        target="augrec.objectives.softmax:Softmax",
        about="cross-entropy over all items",
    ),
    Entry(
        name="sampled-softmax",
        family="objective",
        target="augrec.objectives.softmax:SampledSoftmax",
        about="cross-entropy over shared sampled items, logQ corrected",
    ),
    _hard("dns", "dns:DNS", "the hardest of the sampled items, or one of the hardest M"),
    _hard("cns", "curriculum:Curriculum", "the hardest of fewer and fewer sampled items"),
    _hard("mixgcf", "mixgcf:MixGCF", "the hardest item of each hop, mixed with the positive"),
    _hard("ahns", "ahns:AHNS", "the item whose hardness suits the positive's score"),
    _hard("dins", "dins:DINS", "the hardest item of each hop, mixed with the positive by dimension"),
    Entry(
        name="denoising",
        family="objective",
        target="augrec.objectives.denoising:Denoising",
        about="the own loss of a generative backbone",
    ),
    Entry(
        name="adar",
        family="augmentation",
        target="augrec.augment.adar.plugin:ADAR",
        about="generated negatives at the transition point of a diffusion (arXiv 2601.01448)",
    ),
    _adar("gaussian", "pure Gaussian noise in place of the generated negative", noise=True, source="gaussian"),
    _adar(
        "ridge", "the penalty on user vectors that noise amounts to, no generated negative", noise=True, source="ridge"
    ),
    _adar("fixed-0.5", "every t* = T / 2", source="diffusion", selector="fixed", fixed_fraction=0.5),
    _adar("fixed-0.75", "every t* = 0.75 T", source="diffusion", selector="fixed", fixed_fraction=0.75),
    _adar("fixed-0.9", "every t* = 0.9 T", source="diffusion", selector="fixed", fixed_fraction=0.9),
    _adar("random", "t* at random", source="diffusion", selector="random"),
    _adar("mixed", "four fixed steps, averaged with DMNS's weights", source="diffusion", selector="mixed"),
    _adar("theorem", "t* by Theorem 1, from the scores of both items", source="diffusion", selector="theorem"),
    _adar("analytic", "the exact marginal of a Gaussian for each user, no network", source="analytic"),
    _adar("forward", "the positive itself, noised to t*", source="forward"),
    Entry(
        name="cl4srec",
        family="augmentation",
        target="augrec.augment.cl4srec:CL4SRec",
        about="contrast of two cropped, masked or reordered copies (ICDE 2022)",
    ),
    Entry(
        name="duorec",
        family="augmentation",
        target="augrec.augment.duorec:DuoRec",
        about="contrast of dropout and same-target views (WSDM 2022)",
    ),
    Entry(
        name="simdiffrec",
        family="augmentation",
        target="augrec.augment.simdiffrec.plugin:SimDiffRec",
        about="contrast of a denoiser's picks where it is surest, similar items as noise (arXiv 2507.11866)",
    ),
    Entry(
        name="simdiffrec-random",
        family="augmentation",
        target="augrec.augment.simdiffrec.plugin:SimDiffRec",
        about="SimDiffRec's arm: random items in place of the denoiser's, as in the committed public code",
        fixed={"items": "random"},
        noise=True,
    ),
    Entry(
        name="cadirec",
        family="augmentation",
        target="augrec.augment.cadirec.plugin:CaDiRec",
        about="contrast of two copies with items generated from their context (CIKM 2024)",
    ),
    Entry(
        name="cadirec-random",
        family="augmentation",
        target="augrec.augment.cadirec.plugin:CaDiRec",
        about="CaDiRec's arm: random items in place of the generated ones",
        fixed={"items": "random"},
        noise=True,
    ),
    *_pdrec("hbr", "weights: targets that a user's preferences doubt count less"),
    *_pdrec("dpa", "extra positives: unobserved items of high preference"),
    *_pdrec("nns", "extra negatives: unobserved items of low preference"),
)
_GROUPS: tuple[tuple[str, Family], ...] = (("augrec.backbones", "backbone"), ("augrec.plugins", "augmentation"))


def entries() -> dict[str, Entry]:
    """Every known name: augrec's own, then those of installed packages (entry-point groups augrec.backbones and
    augrec.plugins)."""
    found = {entry.name: entry for entry in _OWN}
    for group, family in _GROUPS:
        for point in entry_points(group=group):
            found.setdefault(
                point.name,
                Entry(name=point.name, family=family, target=point.value, about=f"from {point.value.split(':')[0]}"),
            )
    return found


def nearest(name: str, known: list[str]) -> str:
    """A hint such as "; did you mean 'sasrec'?", or the end of the sentence."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else "."


def find(name: str, families: tuple[Family, ...], *, option: str) -> Entry:
    """The entry called `name`. Raises `UsageError` naming the option, the nearest name and all known ones."""
    found = entries()
    known = [entry.name for entry in found.values() if entry.family in families]
    known += list(RECIPES) if "augmentation" in families else []
    entry = found.get(name)
    if entry is None or entry.family not in families:
        raise UsageError(f"{option}: unknown name '{name}'{nearest(name, known)} Known: {', '.join(known)}")
    return entry
