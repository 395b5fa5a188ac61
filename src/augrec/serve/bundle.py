"""What a trained recommender needs to be used elsewhere: scoring tensors, id maps and histories, in one checked folder.

Nothing in a bundle is executed on loading: safetensors, Parquet and JSON only.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from scipy import sparse

from augrec.backbones.base import Backbone, InnerProductScorer, PairBackbone, Scorer, SequenceBackbone
from augrec.backbones.bert4rec import BERT4Rec
from augrec.backbones.ease import EASE
from augrec.backbones.gru4rec import GRU4Rec
from augrec.backbones.itemknn import ItemKNN
from augrec.backbones.popularity import Popularity
from augrec.backbones.sasrec import SASRec
from augrec.data.interactions import Interactions, Vocabulary
from augrec.errors import CheckpointError, NumericalError
from augrec.linear import matmul
from augrec.storage import read_folder, write_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from augrec.splits import Split
    from augrec.typed import Config

FORMAT = 1
"""Version of the bundle's layout."""
_SEQUENCES: dict[str, Any] = {one.name: one for one in (SASRec, BERT4Rec, GRU4Rec)}
_GENERATIVE = {
    "t-diffrec": ("augrec.backbones.diffrec", "TDiffRec"),
    "ti-diffrec": ("augrec.backbones.diffrec", "TIDiffRec"),
}


class VectorScorer:
    """Inner products of fixed user and item vectors: a pair backbone after training."""

    def __init__(self, user: Tensor, item: Tensor) -> None:
        self.user, self.item, self.n_items = user, item, int(item.shape[0])

    @torch.no_grad()
    def score(self, user: Tensor, history: Interactions) -> Tensor:
        """(B, I) float32, see `Scorer`."""
        return matmul(self.user[user], self.item.T)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded bundle."""

    model: str
    scorer: Scorer
    history: Interactions
    """All events known when the bundle was made."""
    reads_history: bool
    """Whether a history given at request time can be scored (sequence and neighbourhood models), or only users it was
    trained on."""


def save_bundle(folder: Path, *, model: str, model_config: Config, scorer: Scorer, split: Split) -> None:
    """Writes the bundle of a trained scorer. `split` gives the id maps and all known events (train, validation and
    test)."""
    history = split.history("test").merge(split.test)
    reads_time = isinstance(scorer, InnerProductScorer) and scorer.backbone.reads_time
    about = {"format": FORMAT, "model": model, "config": model_config.model_dump(mode="json"), "name": history.name}
    tensors = {
        "item": torch.from_numpy(history.item.copy()),
        "offsets": torch.from_numpy(history.offsets.copy()),
    }
    if reads_time and history.timestamp is not None:
        tensors["timestamp"] = torch.from_numpy(history.timestamp.copy())
    if history.candidates is not None:
        tensors["candidates"] = torch.from_numpy(history.candidates.copy())
    write_folder(
        folder,
        {
            "bundle.json": json.dumps(about, indent=1).encode(),
            "weights.safetensors": save(_tensors(scorer)),
            "history.safetensors": save(tensors),
            "users.parquet": _parquet(history.users),
            "items.parquet": _parquet(history.items),
        },
    )


def _parquet(vocabulary: Vocabulary) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"id": vocabulary.ids}).write_parquet(buffer)
    return buffer.getvalue()


def _tensors(scorer: Scorer) -> dict[str, Tensor]:
    if isinstance(scorer, InnerProductScorer):
        if isinstance(scorer.backbone, PairBackbone):
            assert scorer.tables.user is not None
            return {"user": scorer.tables.user.detach().clone(), "item": scorer.tables.item.detach().clone()}
        return {name: value.detach().clone() for name, value in scorer.backbone.state_dict().items()}
    if isinstance(scorer, VectorScorer):
        return {"user": scorer.user, "item": scorer.item}
    if isinstance(scorer, Popularity):
        return {"counts": scorer.counts}
    if isinstance(scorer, EASE):
        return {"weights": scorer.weights.contiguous()}
    if isinstance(scorer, ItemKNN):
        matrix = scorer.similarity
        return {
            "starts": torch.from_numpy(matrix.indptr.astype(np.int64)),
            "column": torch.from_numpy(matrix.indices.astype(np.int64)),
            "value": torch.from_numpy(matrix.data),
        }
    raise TypeError(f"no bundle format for {type(scorer).__name__}")


def load_bundle(folder: Path) -> Bundle:
    """Reads a bundle. Raises `CheckpointError` where it is damaged or of another format, `NumericalError` where
    weights are not finite."""
    files = read_folder(folder)
    try:
        about = json.loads(files["bundle.json"])
        if about["format"] != FORMAT:
            raise CheckpointError(
                f"{folder}: bundle format {about['format']}, this version reads {FORMAT}; export it again"
            )
        weights, rows = load(files["weights.safetensors"]), load(files["history.safetensors"])
        users, items = (
            Vocabulary(ids=pl.read_parquet(io.BytesIO(files[f"{part}.parquet"]))["id"]) for part in ("users", "items")
        )
        history = _history(about["name"], users, items, rows)
        for name, tensor in weights.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise NumericalError(
                    f"{folder / 'weights.safetensors'}: '{name}' holds values that are not finite; the bundle is "
                    f"unusable"
                )
        scorer = _scorer(about, weights, len(users), len(items))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError, pl.exceptions.PolarsError) as error:
        raise CheckpointError(f"{folder}: not a usable bundle ({error})") from error
    return Bundle(
        model=about["model"], scorer=scorer, history=history, reads_history=not isinstance(scorer, VectorScorer)
    )


def _history(name: str, users: Vocabulary, items: Vocabulary, rows: Mapping[str, Tensor]) -> Interactions:
    offsets, item = rows["offsets"].numpy(), rows["item"].numpy()
    if len(offsets) != len(users) + 1 or offsets[0] != 0 or offsets[-1] != len(item) or (np.diff(offsets) < 0).any():
        raise ValueError("history offsets do not fit the users")
    if len(item) and (item.min() < 0 or item.max() >= len(items)):
        raise ValueError("history names items outside the catalogue")
    user = np.repeat(np.arange(len(users), dtype=np.int32), np.diff(offsets))
    optional: Any = {key: rows[key].numpy() for key in ("timestamp", "candidates") if key in rows}
    return Interactions(
        users=users, items=items, user=user, item=item, offsets=offsets, name=name, sha256="", **optional
    )


def _history_class(model: str) -> Any:
    """A backbone that reads histories, by name: augrec's own, or one that an installed package declares as an entry
    point."""
    if model in _SEQUENCES:
        return _SEQUENCES[model]
    if model in _GENERATIVE:
        # Only these bring the diffusion layer with them.
        module, name = _GENERATIVE[model]
        return getattr(import_module(module), name)
    for point in entry_points(group="augrec.backbones", name=model):
        return point.load()
    raise ValueError(f"model '{model}' is not known here; install the package that declares it")


def _scorer(about: Mapping[str, Any], weights: Mapping[str, Tensor], n_users: int, n_items: int) -> Scorer:
    model = about["model"]
    if "user" in weights and "item" in weights:
        if weights["user"].shape[0] != n_users or weights["item"].shape[0] != n_items:
            raise ValueError("vectors do not fit the id maps")
        return VectorScorer(weights["user"], weights["item"])
    if model == "popularity":
        return Popularity(weights["counts"], config=Popularity.Config(**about["config"]))
    if model == "ease":
        return EASE(weights["weights"], config=EASE.Config(**about["config"]))
    if model == "itemknn":
        parts = (weights["value"].numpy(), weights["column"].numpy(), weights["starts"].numpy())
        return ItemKNN(sparse.csr_array(parts, shape=(n_items, n_items)), config=ItemKNN.Config(**about["config"]))
    kind = _history_class(model)
    config = kind.Config(**about["config"])
    options = {"mask_token": "special" in weights} if issubclass(kind, SequenceBackbone) else {}
    # A module draws its first weights from torch's own generator; the caller's state is not ours to move.
    with torch.random.fork_rng(devices=[]):
        backbone: Backbone = kind(config, n_users=n_users, n_items=n_items, **options)
    backbone.load_state_dict(dict(weights))
    return InnerProductScorer(backbone)
