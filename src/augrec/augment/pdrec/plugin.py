"""What HBR, DPA and NNS have in common: one preference model, prepared once and looked through once."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from augrec.augment.pdrec.preference import PreferenceConfig, fit_preference, random_preference
from augrec.augment.pdrec.scan import Scan
from augrec.errors import ConfigError
from augrec.seams import Needs, Plugin, Prepared

if TYPE_CHECKING:
    from collections.abc import Mapping

    from augrec.backbones.base import Kind
    from augrec.data.interactions import Interactions
    from augrec.seams import Fit
    from augrec.typed import Config


class PreferencePlugin(Plugin):
    """What HBR, DPA and NNS share: one preparation, cached and held once, of the run's part `preference`."""

    prepares: ClassVar[bool] = True
    shared: ClassVar[Mapping[str, type[Config]]] = MappingProxyType({"preference": PreferenceConfig})
    needs = Needs(kinds=frozenset({"sequences"}))
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})

    def __init__(self, config: Config, *, kind: Kind, dim: int, n_items: int) -> None:
        super().__init__(config, kind=kind, dim=dim, n_items=n_items)
        self.preference_settings = PreferenceConfig()
        self._waiting: tuple[Scan, Any] | None = None

    @property
    def _random(self) -> bool:
        return bool(getattr(self.config, "source", "preference") == "random")

    @property
    def active(self) -> bool:
        return bool(getattr(self.config, "weight", 1.0) > 0)

    @classmethod
    def preset(cls, name: str, *, kind: Kind) -> Mapping[str, Any]:
        if name not in ("default", "paper", "published-code"):
            raise ConfigError(f"{cls.name}: unknown preset '{name}'; choose one of default, paper, published-code")
        return cls.presets.get(name, {})

    @classmethod
    def run_preset(cls, name: str) -> Mapping[str, Mapping[str, Any]]:
        published = {"hidden": 1000, "dropout": 0.5, "learning_rate": 5e-5}
        if name == "paper":
            return {"preference": published}
        if name == "published-code":
            preference = {**published, "epoch": "with-replacement", "padding_column": True}
            selection = {"select_part": "test", "select": "sampled99:ndcg@10"}
            return {"preference": preference, "train": selection, "evaluate": {"sampled": True}}
        return {}

    def adopt(self, parts: Mapping[str, Config]) -> None:
        settings = parts["preference"]
        assert isinstance(settings, PreferenceConfig)
        self.preference_settings = settings

    def _seed(self, seed: int) -> int:
        return seed if self.preference_settings.seed is None else self.preference_settings.seed

    def prepared_key(self, seed: int) -> list[Any]:
        if self._random:
            return ["preference", "random", self._seed(seed)]
        settings = self.preference_settings.model_dump(mode="json", exclude={"seed"})
        return ["preference", settings, self._seed(seed)]

    def prepare(self, train: Interactions, fit: Fit, *, seed: int) -> Prepared:
        seed = self._seed(seed)
        if self._random:
            return Prepared(tensors=random_preference(train, seed=seed))
        return Prepared(tensors=fit_preference(self.preference_settings, train, fit, seed=seed))

    def load_prepared(self, prepared: Prepared, train: Interactions) -> None:
        self.use(Scan.of(prepared, train))

    def use(self, scan: Scan) -> None:
        """Asks for what the part needs of the preferences. The pass itself waits until the first epoch, so that the
        parts of a run, which load one after another, share it."""
        self._waiting = (scan, self.ask(scan))

    def settle(self) -> None:
        """Has the pass made and keeps what the part asked for; does nothing from the second time on."""
        if self._waiting is not None:
            (scan, found), self._waiting = self._waiting, None
            scan.run()
            self.take(scan, found)

    def start_epoch(self, epoch: int) -> None:
        self.settle()

    def ask(self, scan: Scan) -> Any:
        """What is read in the pass; None where the part reads single preferences only."""
        return None

    def take(self, scan: Scan, found: Any) -> None:
        """Makes what the part needs, once; `found` is what it asked for, filled."""
        raise TypeError(f"{type(self).__name__} defines no take()")
