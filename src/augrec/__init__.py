"""augrec: diffusion augmentation for any recommender.

Names are loaded on first use, so that `import augrec` costs milliseconds and never imports torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from augrec import errors as errors
    from augrec.data import load as load
    from augrec.data import read_interactions as read_interactions
    from augrec.experiment.api import open_run as open_run
    from augrec.experiment.api import train as train
    from augrec.experiment.compare import compare as compare
    from augrec.experiment.tune import tune as tune

__version__ = "0.1.0"

# A new public name: one line here, one import above for type checkers, one entry in __all__; a test compares the three.
# "module" is the module itself, "module:attribute" a name in it.
_PUBLIC = MappingProxyType(
    {
        "compare": "augrec.experiment.compare:compare",
        "errors": "augrec.errors",
        "load": "augrec.data:load",
        "open_run": "augrec.experiment.api:open_run",
        "read_interactions": "augrec.data:read_interactions",
        "train": "augrec.experiment.api:train",
        "tune": "augrec.experiment.tune:tune",
    }
)

__all__ = ["__version__", "compare", "errors", "load", "open_run", "read_interactions", "train", "tune"]


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'augrec' has no attribute {name!r}; public names: {', '.join(__all__)}")
    module, _, attribute = _PUBLIC[name].partition(":")
    value: object = import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """The type of this module: a public name wins over a folder of the same name.

    Python binds a submodule to its parent when it is first imported, so `augrec.train` would be the function or the
    folder depending on what was imported before. The folder stays importable: `from augrec.train import ...`.
    """

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute, but for a folder that would hide a public name."""
        hidden = isinstance(value, ModuleType) and ":" in _PUBLIC.get(name, "")
        if not hidden:
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
