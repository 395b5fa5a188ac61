"""What a run is: names, typed parts and nothing else. Text from the command line becomes typed fields here and nowhere
else."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError

from augrec.errors import ConfigError
from augrec.evaluate.protocol import EvaluateConfig
from augrec.experiment.protocols import named_protocol
from augrec.experiment.registry import expand, find, nearest
from augrec.splits import SplitConfig
from augrec.train.config import SEQUENCE_AVERAGE, TrainConfig
from augrec.typed import Config

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Preset = Literal["default", "paper", "published-code", "robust"]
_NAMES = MappingProxyType(
    {"data": str, "model": str, "objective": str | None, "preset": str, "seed": int, "refit": bool}
    | {"augment": list, "parts": dict}
)
"""Top-level keys of config.json and their types."""


class DataConfig(Config):
    """Filters applied to the log before it is split."""

    drop_duplicates: bool = False
    """Keep only the first of repeated (user, item) events. The ratio split always does."""
    user_core: int = Field(default=0, ge=0)
    """Keep users with at least this many events, again and again until nothing changes (k-core)."""
    item_core: int = Field(default=0, ge=0)
    """Keep items with at least this many events, likewise."""
    min_rating: float | None = None
    """Keep events rated at least this high."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run, fully resolved."""

    data: str
    model: str
    objective: str | None
    augment: tuple[str, ...]
    preset: str
    seed: int
    refit: bool
    parts: dict[str, Config] = field(default_factory=dict)
    """Typed parts by name: data, split, train, evaluate, the model, the objective, each augmentation."""

    def part(self, name: str) -> Any:
        """A typed part."""
        return self.parts[name]

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` brings the run back."""
        names = {"data": self.data, "model": self.model, "objective": self.objective, "augment": list(self.augment)}
        rest = {"preset": self.preset, "seed": self.seed, "refit": self.refit}
        return names | rest | {"parts": {name: part.model_dump(mode="json") for name, part in self.parts.items()}}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> RunConfig:
        """The run that `to_json` wrote. Raises `ConfigError` where a value does not fit."""
        for key, kind in _NAMES.items():
            if not isinstance(values.get(key), kind):
                found = repr(values[key]) if key in values else "missing"
                raise ConfigError(
                    f"config.json: '{key}' is {found}; the file was damaged, edited or made by another version; train "
                    f"again"
                )
        names = {key: values[key] for key in ("data", "model", "objective", "preset", "seed", "refit")}
        augment, given = tuple(str(name) for name in values["augment"]), values["parts"]
        bare = RunConfig(**names, augment=augment)
        return RunConfig(
            **names, augment=augment, parts={n: _read(n, c, given.get(n, {})) for n, c in _classes(bare).items()}
        )


def _classes(run: RunConfig) -> dict[str, Any]:
    """The config class of each part of a run."""
    classes: dict[str, Any] = {
        "data": DataConfig,
        "split": SplitConfig,
        "train": TrainConfig,
        "evaluate": EvaluateConfig,
    }
    classes[run.model] = find(run.model, ("backbone", "baseline"), option="--model").load().Config
    if run.objective is not None:
        classes[run.objective] = find(run.objective, ("objective",), option="--objective").load().Config
    for name in run.augment:
        plugin = find(name, ("augmentation",), option="--augment").load()
        classes[name] = plugin.Config
        classes |= plugin.shared
    return classes


def _read(name: str, kind: Any, values: Mapping[str, Any]) -> Any:
    """`values` as the part's typed config; one clear message where a value does not fit."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        problem = error.errors()[0]
        path = ".".join([name, *(str(step) for step in problem["loc"] if step not in values.values())])
        if problem["type"] == "extra_forbidden":
            fields = list(_fields(kind, values))
            raise ConfigError(
                f"{path}: no such field{nearest(str(problem['loc'][-1]), fields)} Fields of {name}: {', '.join(fields)}"
            ) from None
        if problem["type"] == "union_tag_invalid":
            kinds = [one.model_fields["kind"].default for one in get_args(get_args(kind)[0])]
            got = str(values.get("kind"))
            raise ConfigError(
                f"{name}.kind: unknown {name} '{got}'{nearest(got, kinds)} Known: {', '.join(kinds)}"
            ) from None
        raise ConfigError(f"{path}: {problem['msg']} (got {problem['input']!r})") from None


def _fields(kind: Any, values: Mapping[str, Any]) -> list[str]:
    options = [kind] if hasattr(kind, "model_fields") else list(get_args(get_args(kind)[0]))
    chosen = [
        one
        for one in options
        if one.model_fields.get("kind") is None or values.get("kind") == one.model_fields["kind"].default
    ]
    return [name for one in chosen for name in one.model_fields]


def parse_overrides(assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`part.field=value` texts by part. A value is JSON where it reads as JSON, else the text itself; nothing is
    evaluated."""
    found: dict[str, dict[str, Any]] = {}
    for text in assignments:
        path, sign, value = text.partition("=")
        # From the right: names such as adar-fixed-0.75 hold a dot, field names do not.
        part, dot, name = path.strip().rpartition(".")
        if not sign or not dot or not part or not name:
            raise ConfigError(f"--set {text}: write it as part.field=value, for example --set train.epochs=50")
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        found.setdefault(part, {})[name] = read
    return found


def _give(given: dict[str, dict[str, Any]], more: Mapping[str, Mapping[str, Any]]) -> None:
    for part, fields in more.items():
        given.setdefault(part, {}).update(fields)


def resolve(
    *,
    data: str = "beauty",
    model: str,
    objective: str | None = None,
    augment: Sequence[str] = (),
    preset: str = "default",
    split: str | None = None,
    seed: int = 0,
    epochs: int | None = None,
    refit: bool = False,
    protocol: str | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> RunConfig:
    """Names and overrides to a complete `RunConfig`; everything wrong with them is said here, before any work is
    done."""
    if preset not in get_args(Preset):
        raise ConfigError(
            f"--preset: unknown preset '{preset}'{nearest(preset, list(get_args(Preset)))} Known: "
            f"{', '.join(get_args(Preset))}"
        )
    if seed < 0:
        raise ConfigError(f"--seed: must not be negative (got {seed})")
    augment = expand(augment)
    entry = find(model, ("backbone", "baseline"), option="--model")
    kind = getattr(entry.load(), "kind", "pairs")
    if entry.family == "baseline" and (augment or objective):
        raise ConfigError(f"--model {model} is fitted in closed form: it takes no --objective and no --augment")
    values: dict[str, dict[str, Any]] = {name: dict(fields) for name, fields in (overrides or {}).items()}
    named = None
    if protocol is not None:
        named = named_protocol(protocol, kind=kind, objective=objective, split=split, overrides=values)
        objective = named.objective
    if entry.family == "backbone":
        objective = objective or entry.load().objective or ("bpr" if kind == "pairs" else "softmax")
    chosen = split or values.get("split", {}).get("kind") or ("ratio" if kind == "pairs" else "leave-one-out")
    if kind == "sequences" and chosen == "ratio":
        raise ConfigError(
            f"--split ratio draws events at random, but {model} reads histories in order; use leave-one-out or temporal"
        )
    given: dict[str, dict[str, Any]] = {
        "split": {"kind": chosen, **({"seed": seed} if chosen in ("ratio", "given") else {})}
    }
    given["evaluate"] = {"seen_items": "mask" if kind == "pairs" else "keep"}
    given["train"] = {"average": SEQUENCE_AVERAGE} if kind == "sequences" else {}
    if entry.family == "backbone":
        _give(given, entry.load().run_preset(preset))
    for name in augment:
        plugin = find(name, ("augmentation",), option="--augment")
        given[name] = {**plugin.load().preset(preset, kind=kind), **plugin.fixed}
        _give(given, plugin.load().run_preset(preset))
    given["train"] |= {} if epochs is None else {"epochs": epochs}
    for (part, field_), value in () if named is None else named.settings.items():
        given[part][field_] = value
    bare = RunConfig(
        data=data, model=model, objective=objective, augment=tuple(augment), preset=preset, seed=seed, refit=refit
    )
    classes = _classes(bare)
    for name in values:
        if name not in classes:
            raise ConfigError(
                f"--set {name}.…: this run has no part '{name}'{nearest(name, list(classes))} Parts: "
                f"{', '.join(classes)}"
            )
    parts = {
        name: _read(name, kind_, {**given.get(name, {}), **values.get(name, {})}) for name, kind_ in classes.items()
    }
    return RunConfig(**{**bare.__dict__, "parts": parts})
