"""The cells of a comparison: sober baselines, the base, noise arms, further arms and the augmentations themselves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from augrec.augment.compose import check_combination, check_kind
from augrec.errors import ConfigError, UnsupportedCombinationError, UsageError
from augrec.experiment.config import Preset, RunConfig, resolve
from augrec.experiment.registry import entries, expand, find, nearest
from augrec.train.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from augrec.experiment.registry import Entry

Role = Literal["baseline", "base", "noise", "arm", "augmentation"]
BASELINES = ("popularity", "itemknn", "ease")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of a comparison."""

    name: str
    role: Role
    model: str
    augment: tuple[str, ...] = ()
    preset: str = "default"
    controls: tuple[str, ...] = ()
    """Noise arms (names of cells) this cell is judged against."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Fields of this cell alone, by part; they stand over all others."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Cells with the settings of their first seed, and noise arms that cannot be made, with reasons."""

    cells: dict[str, Cell]
    configs: dict[str, RunConfig]
    left_out: dict[str, str]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Which cells are tested: each augmentation and arm against the base and its noise arms, each noise arm
        against the base, and each augmentation against the arms of the same method."""
        found: list[tuple[str, str]] = []
        for cell in self.cells.values():
            if cell.role in ("augmentation", "arm", "noise"):
                found.append((cell.name, "base"))
                found += [(cell.name, control) for control in cell.controls]
        arms = [cell for cell in self.cells.values() if cell.role == "arm"]
        for cell in self.cells.values():
            if cell.role == "augmentation":
                found += [(cell.name, arm.name) for arm in arms if _targets(arm) == _targets(cell)]
        return list(dict.fromkeys(pair for pair in found if pair[0] != pair[1]))


def _targets(cell: Cell) -> list[str]:
    return [entries()[name].target for name in cell.augment]


def plan(
    *,
    data: str,
    model: str,
    augment: Sequence[str],
    objective: str | None = None,
    preset: str = "default",
    split: str | None = None,
    epochs: int | None = None,
    arms: Sequence[str] = (),
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """The cells of a comparison with all their settings; everything wrong with the arguments is said here.

    An augmentation is a name, `NAME@PRESET`, or several joined by `+` in one cell. Overrides of a method's own name
    hold for its arms too, except where the arm fixes the field. Noise arms that this objective cannot carry are left
    out with the reason; what was asked for by name raises `UnsupportedCombinationError`.
    """
    if find(model, ("backbone", "baseline"), option="--model").family == "baseline":
        raise UsageError(f"--model {model} is a baseline and in every comparison already; name a backbone to augment")
    if not augment:
        raise UsageError("--augment: name what is to be compared, for example --augment adar")
    wanted: dict[str, Cell] = {}
    for text in augment:
        made = _parse(text, model, preset)
        extra = [replace(made, augment=(name,), role="arm") for name in _arms(made, arms)]
        for cell in (made, *extra):
            named = _named(cell, preset)
            if named.name not in wanted or named.role == "augmentation":
                wanted[named.name] = named
    base = Cell(name="base", role="base", model=model, preset=preset)
    _check_parts(overrides or {}, known_parts(base, objective, wanted.values()))
    return complete(
        base, wanted, data=data, objective=objective, split=split, epochs=epochs, overrides=overrides, preset=preset
    )


def complete(
    base: Cell,
    wanted: Mapping[str, Cell],
    *,
    data: str,
    objective: str | None = None,
    split: str | None = None,
    epochs: int | None = None,
    preset: str = "default",
    noise: Sequence[str] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """The plan of a base and the cells judged against it: their noise arms, the sober baselines and all settings.

    Augmentations of the base stand first in every cell and have no noise arm of their own here. `noise` keeps only the
    noise arms named; None takes all that are known. `preset` is the one that names leave out. Overrides are those of
    `known_parts`.
    """
    held = len(base.augment)
    found: dict[str, Cell] = {}
    cells = dict(wanted)
    for name, cell in wanted.items():
        arms = [
            _named(replace(cell, augment=one, role="noise", settings=_inherited(cell, one)), preset, held)
            for one in _noise_of(cell.augment, held, noise)
        ]
        cells[name] = replace(cell, controls=tuple(dict.fromkeys((*cell.controls, *(one.name for one in arms)))))
        found |= {one.name: one for one in arms if one.name not in wanted}
    cells = {"base": base, **found, **cells}
    given = {name: dict(fields) for name, fields in (overrides or {}).items()}
    shared = {"data": data, "objective": objective, "split": split, "epochs": epochs}
    configs: dict[str, RunConfig] = {}
    left_out: dict[str, str] = {}
    for name, cell in cells.items():
        configs[name] = _config(cell, given, shared)
        try:
            _check(configs[name])
        except UnsupportedCombinationError as error:
            if cell.role != "noise":
                raise
            left_out[name] = str(error)
    for name in left_out:
        del cells[name], configs[name]
    cells = {
        name: replace(cell, controls=tuple(one for one in cell.controls if one in cells))
        for name, cell in cells.items()
    }
    sober = {name: Cell(name=name, role="baseline", model=name) for name in BASELINES}
    own = {name: _baseline(name, configs["base"], given) for name in BASELINES}
    return Plan(cells={**sober, **cells}, configs={**own, **configs}, left_out=left_out)


def seeded(planned: Plan, configs: Mapping[str, RunConfig], seeds: int) -> dict[str, list[RunConfig]]:
    """Training seeds 0 to `seeds` - 1 of each cell in `configs`; baselines, which draw nothing, have one."""
    alone = {name for name in configs if planned.cells[name].role == "baseline"}
    return {
        name: [replace(config, seed=seed) for seed in range(1 if name in alone else seeds)]
        for name, config in configs.items()
    }


def _parse(text: str, model: str, preset: str) -> Cell:
    names, at, own = text.strip().partition("@")
    if at and own not in get_args(Preset):
        known = list(get_args(Preset))
        raise ConfigError(f"--augment {text}: unknown preset '{own}'{nearest(own, known)} Known: {', '.join(known)}")
    augment = expand([name.strip() for name in names.split("+")])
    for name in augment:
        find(name, ("augmentation",), option="--augment")
    return Cell(name=text, role="augmentation", model=model, augment=augment, preset=own if at else preset)


def _named(cell: Cell, preset: str, held: int = 0) -> Cell:
    """Named after what it adds to the first `held` augmentations, which are the base's."""
    return replace(cell, name="+".join(cell.augment[held:]) + ("" if cell.preset == preset else f"@{cell.preset}"))


def method_of(name: str) -> str:
    """The method an augmentation is an arm of; itself where it is none."""
    return _siblings(name)[0].name


def _siblings(name: str) -> list[Entry]:
    """Every name of the same class, the method itself first."""
    target = find(name, ("augmentation",), option="--augment").target
    found = [one for one in entries().values() if one.family == "augmentation" and one.target == target]
    return sorted(found, key=lambda one: bool(one.fixed))


def _arms(cell: Cell, arms: Sequence[str]) -> list[str]:
    """The arms asked for of a cell with one augmentation: short or full names, or "all"."""
    if not arms or len(cell.augment) > 1:
        return []
    own = [one.name for one in _siblings(cell.augment[0])]
    found: list[str] = []
    for arm in arms:
        chosen = own if arm == "all" else [name for name in own if name in (arm, f"{own[0]}-{arm}")]
        if not chosen:
            raise UsageError(
                f"--arms: '{cell.augment[0]}' has no arm '{arm}'{nearest(arm, own)} Known: all, {', '.join(own)}"
            )
        found += chosen
    return [name for name in found if name != cell.augment[0] and not entries()[name].noise]


def _noise_of(augment: tuple[str, ...], held: int, names: Sequence[str] | None) -> list[tuple[str, ...]]:
    """The same augmentations with one of them, after the first `held`, replaced by a noise arm of its own; parts of one
    method are replaced together."""
    found: list[tuple[str, ...]] = []
    known = entries()
    for place, name in enumerate(augment):
        for one in _siblings(name) if place >= held else ():
            if not one.noise or one.name == name or (names is not None and one.name not in names):
                continue
            made = list(augment)
            made[place] = one.name
            for other, part in enumerate(augment):
                if one.together and known[part].together == one.together and other != place:
                    made[other] = next((arm.name for arm in _siblings(part) if arm.noise), part)
            found.append(tuple(made))
    return list(dict.fromkeys(found))


def _inherited(cell: Cell, augment: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The settings of a method's row for its noise arm `augment`, under the arm's names and without what it fixes.

    A further arm of the method is judged against the same noise arm, so it hands on nothing.
    """
    if cell.role != "augmentation":
        return {}
    names, known = dict(zip(cell.augment, augment, strict=True)), entries()
    found = {}
    for part, fields in cell.settings.items():
        fixed = known[names[part]].fixed if part in names else {}
        found[names.get(part, part)] = {key: value for key, value in fields.items() if key not in fixed}
    return found


def known_parts(base: Cell, objective: str | None, cells: Iterable[Cell]) -> list[str]:
    """Parts that overrides of a comparison may name."""
    kind = find(base.model, ("backbone",), option="--model").load().kind
    augment = dict.fromkeys(name for cell in (base, *cells) for name in cell.augment)
    named = [one.name for name in augment for one in _siblings(name) if one.noise or one.name == name or not one.fixed]
    known = ["data", "split", "train", "evaluate", base.model]
    parts = [part for name in named for part in entries()[name].load().shared]
    known += [objective or ("bpr" if kind == "pairs" else "softmax"), *named, *parts, *BASELINES]
    return list(dict.fromkeys(known))


def _check_parts(given: Mapping[str, Any], known: list[str]) -> None:
    """Refuses overrides of parts that no cell has."""
    for part in given:
        if part not in known:
            raise ConfigError(
                f"--set {part}.…: this comparison has no part '{part}'{nearest(part, known)} Parts: {', '.join(known)}"
            )


def _shared_parts(names: Iterable[str]) -> set[str]:
    """Parts of a run that several of these augmentations may have in common."""
    return {part for name in names for part in entries()[name].load().shared}


def _config(cell: Cell, given: Mapping[str, Mapping[str, Any]], shared: Mapping[str, Any]) -> RunConfig:
    """A trained cell's settings under seed 0, the split's seed fixed at 0 unless it was set."""
    own: dict[str, dict[str, Any]] = {name: dict(v) for name, v in given.items() if name not in BASELINES}
    for name in cell.augment:
        root, fixed = method_of(name), entries()[name].fixed
        method = {key: value for key, value in given.get(root, {}).items() if name == root or key not in fixed}
        own[name] = {**method, **given.get(name, {})}
    for name, fields in cell.settings.items():
        own[name] = {**own.get(name, {}), **fields}
    known = {one.name for one in entries().values() if one.family == "augmentation"}
    known |= _shared_parts(known)
    held = {*cell.augment, *_shared_parts(cell.augment)}
    own = {name: fields for name, fields in own.items() if name not in known or name in held}
    return resolve(model=cell.model, augment=cell.augment, preset=cell.preset, seed=0, overrides=own, **shared)


def _baseline(name: str, base: RunConfig, given: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """A baseline on the base's data, split and protocol."""
    parts = {part: base.part(part).model_dump(mode="json") for part in ("data", "split", "evaluate")}
    own = {**parts, name: dict(given.get(name, {}))}
    return resolve(data=base.data, model=name, split=base.part("split").kind, seed=0, overrides=own)


def _check(config: RunConfig) -> None:
    """Refuses backbone, objective and plug-ins that cannot work together, before anything is trained."""
    backbone = find(config.model, ("backbone",), option="--model").load()
    objective = find(config.objective or "", ("objective",), option="--objective").load()
    plugins = []
    for name in config.augment:
        made = find(name, ("augmentation",), option="--augment").load()
        check_kind(backbone, made)
        with Streams(0).use("initialisation"):
            width = backbone.width(config.part(config.model))
            plugins.append(made(config.part(name), kind=backbone.kind, dim=width, n_items=1))
    check_combination(backbone, objective, plugins)
