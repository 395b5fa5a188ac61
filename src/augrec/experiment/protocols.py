"""The field's usual ways to train and judge a sequence model, by name, as settings of a run."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from augrec.errors import ConfigError
from augrec.experiment.registry import find, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from augrec.experiment.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Leave-one-out, full ranking; what differs."""

    rows: str
    """`train.rows`."""
    objective: str
    seen_items: str
    """`evaluate.seen_items`."""

    @property
    def settings(self) -> dict[tuple[str, str], str]:
        """Its fields by part and name."""
        return {
            ("split", "kind"): "leave-one-out",
            ("train", "rows"): self.rows,
            ("evaluate", "seen_items"): self.seen_items,
        }


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "P1": Protocol(rows="prefix", objective="softmax", seen_items="keep"),
        "P1d": Protocol(rows="prefix-dense", objective="softmax", seen_items="keep"),
        "P2": Protocol(rows="whole", objective="bce", seen_items="mask"),
    }
)
"""P1: RecBole, DuoRec, MCLRec. P1d: SimDiffRec's released code. P2: CaDiRec and others after S3-Rec."""


def named_protocol(
    name: str, *, kind: str, objective: str | None, split: str | None, overrides: Mapping[str, Mapping[str, Any]]
) -> Protocol:
    """The protocol of this name.

    Raises `ConfigError` for a name that is not known, a model that does not read sequences, and settings given beside
    the name that contradict it.
    """
    if name not in PROTOCOLS:
        raise ConfigError(
            f"--protocol: unknown protocol '{name}'{nearest(name, list(PROTOCOLS))} Known: {', '.join(PROTOCOLS)}"
        )
    found = PROTOCOLS[name]
    if kind != "sequences":
        raise ConfigError(f"--protocol {name} is one of sequence models; name such a model, or leave it out")
    if objective not in (None, found.objective):
        raise ConfigError(f"--protocol {name} trains with {found.objective}; leave out --objective {objective}")
    if split not in (None, "leave-one-out"):
        raise ConfigError(f"--protocol {name} is leave-one-out; leave out --split {split}")
    for (part, field), value in found.settings.items():
        given = overrides.get(part, {}).get(field, value)
        if given != value:
            raise ConfigError(f"--protocol {name} has {part}.{field}={value}; leave out --set {part}.{field}={given}")
    return found


def spelled_out(
    name: str,
    *,
    model: str,
    objective: str | None,
    split: str | None,
    overrides: Mapping[str, Mapping[str, Any]] | None,
) -> tuple[str, str, dict[str, dict[str, Any]]]:
    """A protocol as the objective, split and overrides that it stands for, those given beside it included. Raises as
    `named_protocol`."""
    values = {part: dict(fields) for part, fields in (overrides or {}).items()}
    kind = getattr(find(model, ("backbone",), option="--model").load(), "kind", "pairs")
    found = named_protocol(name, kind=kind, objective=objective, split=split, overrides=values)
    for (part, field), value in found.settings.items():
        if part != "split":
            values.setdefault(part, {})[field] = value
    return found.objective, "leave-one-out", values


def protocol_of(config: RunConfig) -> str | None:
    """The name of the protocol that a run's settings make up, whether or not it was asked for by name."""
    for name, one in PROTOCOLS.items():
        fields = one.settings.items()
        if config.objective == one.objective and all(getattr(config.part(p), f) == v for (p, f), v in fields):
            return name
    return None
