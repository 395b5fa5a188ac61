"""Conformance checks of what an augmentation adds to a batch: views, negatives, weights, positives, terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from augrec.batches.pairs import PairBatches
from augrec.testing.assemble import fit, tensors_of
from augrec.testing.asserting import finite, require
from augrec.testing.augmentation_case import Largest, ask
from augrec.testing.logs import log_of, tiny_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from augrec.seams import Additions, Negatives
    from augrec.testing.augmentation_case import AugmentationCase


def check_acts_as_declared(case: AugmentationCase) -> None:
    """What it returns lies within the seams it declares in `acts`; the composer relies on them."""
    trial = case.trial()
    plugin: Any = trial.step.plugins[0]
    batch = trial.first_batch()
    _, found, terms = ask(trial, batch)
    used = {
        "weights": found.weights is not None,
        "positives": bool(found.positives),
        "replace": found.replaced is not None,
        "append": bool(found.appended),
        "offset": bool(found.offsets),
        "losses": bool(terms),
        "phases": bool(plugin.phases()),
        "views": batch.tokens is not None and bool(plugin.inputs(batch, trial.backbone.tables())),
    }
    secret = sorted(name for name, does in used.items() if does and name not in plugin.acts)
    require(not secret, f"it acts on {', '.join(secret)} without naming it in `acts`")


def check_inputs_are_kept(case: AugmentationCase) -> None:
    """Batch, tables and encoding are the same bits after the plug-in saw them."""
    trial = case.trial()
    batch = trial.first_batch()
    plugin: Any = trial.step.plugins[0]
    encoded = trial.step.encode(batch)
    watched = [*tensors_of(batch), *tensors_of(encoded)]
    before = [tensor.detach().clone() for tensor in watched]
    with torch.random.fork_rng(devices=[]):
        if batch.tokens is not None:
            plugin.inputs(batch, encoded.tables)
        plugin.targets(batch, encoded)
        plugin.losses(batch, encoded)
        for phase in plugin.phases():
            phase.loss(batch, encoded)
    same = all(torch.equal(a, b) for a, b in zip(watched, before, strict=True))
    require(same, "the plug-in wrote into the batch, the tables or the encoding")


def check_negatives(case: AugmentationCase) -> None:
    """Ids int64 within the catalogue and, unless declared, none of the user's train items; vectors finite (M, K, D)."""
    log = tiny_log()
    trial = case.trial(log)
    batch = trial.first_batch()
    encoded, found, _ = ask(trial, batch)
    rows, train = batch.target_user, {(int(u), int(i)) for u, i in zip(log.user, log.item, strict=True)}
    for negatives in _negatives(found):
        if negatives.vectors is not None:
            shape = negatives.vectors.shape
            good = len(shape) == 3 and shape[0] == len(rows) and shape[2] == encoded.tables.item.shape[1]
            require(good, f"vectors of negatives are {tuple(shape)}, expected (M = {len(rows)}, K, D)")
            finite(negatives.vectors, "vectors of negatives")
        if negatives.ids is None:
            require(negatives.vectors is not None, "negatives with neither ids nor vectors")
            continue
        ids = negatives.ids
        require(ids.dtype == torch.int64, f"negative ids are {ids.dtype}, expected int64")
        inside = not ids.numel() or (int(ids.min()) >= 0 and int(ids.max()) < log.n_items)
        require(inside, f"negative ids {int(ids.min())}..{int(ids.max())} leave the catalogue 0..{log.n_items - 1}")
        require(
            ids.dim() == 1 or len(ids) == len(rows), f"negative ids are {tuple(ids.shape)}, expected (M, K) or (S,)"
        )
        if ids.dim() == 2 and not case.declared.draws_seen_items:
            pairs = zip(rows.tolist(), ids.tolist(), strict=True)
            seen = [(user, item) for user, items in pairs for item in items if (user, item) in train]
            require(not seen, f"negatives from the user's own train history, e.g. (user, item) {seen[:3]}")


def check_weights(case: AugmentationCase) -> None:
    """Weights of positives: (M,), finite, >= 0, not all 0, without gradient."""
    trial = case.trial()
    batch = trial.first_batch()
    weights = ask(trial, batch)[1].weights
    if weights is None:
        return
    require(tuple(weights.shape) == tuple(batch.target.shape), f"weights are {tuple(weights.shape)}, expected (M,)")
    finite(weights, "weights")
    require(weights.min().item() >= 0, "a weight is negative")
    require(weights.max().item() > 0, "all weights are 0: nothing would be learned")
    require(not weights.requires_grad, "weights carry a gradient")


def check_positives(case: AugmentationCase) -> None:
    """Extra positives: ids (Q, n) within the catalogue, finite queries, a weight and a scale that are finite."""
    log = tiny_log()
    trial = case.trial(log)
    for one in ask(trial, trial.first_batch())[1].positives:
        good = one.ids.dim() == 2 and one.ids.dtype == torch.int64 and len(one.ids) == len(one.query)
        require(good, f"ids of extra positives are {one.ids.dtype} {tuple(one.ids.shape)}, expected int64 (Q, n)")
        inside = not one.ids.numel() or (int(one.ids.min()) >= 0 and int(one.ids.max()) < log.n_items)
        require(inside, "an extra positive lies outside the catalogue")
        finite(one.query, "queries of extra positives")
        finite(torch.tensor([one.weight, one.scale]), "weight and scale of extra positives")


def check_offsets_and_terms(case: AugmentationCase) -> None:
    """Offsets are finite (M,); its own terms are finite scalars that carry a gradient."""
    trial = case.trial()
    batch = trial.first_batch()
    _, found, terms = ask(trial, batch)
    for offset in found.offsets:
        require(offset.score.shape == batch.target.shape, f"an offset is {tuple(offset.score.shape)}, expected (M,)")
        finite(offset.score, "an offset")
        finite(torch.tensor(offset.weight), "the weight of an offset")
    for name, term in terms.items():
        require(term.dim() == 0, f"term '{name}' is {tuple(term.shape)}, expected a scalar")
        finite(term, f"term '{name}'")


def check_views(case: AugmentationCase) -> None:
    """Views: well-formed rows within the catalogue and max_length, one a batch row, under names of their own."""
    trial = case.trial()
    batch = trial.first_batch()
    if batch.tokens is None:
        return
    plugin: Any = trial.step.plugins[0]
    backbone: Any = trial.backbone
    tables = backbone.tables()
    with trial.step.streams.use(f"plugin/{plugin.name}"):
        views = plugin.inputs(batch, tables)
    names = [view.name for view in views]
    require(len(names) == len(set(names)), f"two views share a name: {names}")
    rows = batch.tokens.offsets.shape[0] - 1
    for view in views:
        tokens, what = view.tokens, f"view '{view.name}'"
        lengths = tokens.lengths
        require(tokens.offsets.shape[0] == rows + 1, f"{what} has {len(lengths)} rows, the batch {rows}")
        whole = int(tokens.offsets[0]) == 0 and int(tokens.offsets[-1]) == len(tokens.ids)
        require(whole, f"{what}: offsets must run from 0 to {len(tokens.ids)}")
        require(int(lengths.min()) >= 1, f"{what} has an empty row")
        longest = int(lengths.max())
        require(longest <= tokens.max_length, f"{what}: a row of {longest} tokens, max_length says {tokens.max_length}")
        require(longest <= backbone.max_length, f"{what}: a row of {longest} tokens, the backbone reads fewer")
        limit = backbone.n_items if tokens.masked else backbone.n_items - 1
        require(int(tokens.ids.min()) >= 0 and int(tokens.ids.max()) <= limit, f"{what}: ids leave the catalogue")
        if tokens.vectors is not None:
            wanted = (len(tokens.ids), backbone.dim)
            require(tuple(tokens.vectors.shape) == wanted, f"{what}: vectors {tuple(tokens.vectors.shape)}")
            finite(tokens.vectors, f"{what}: vectors")


def check_batch_of_one(case: AugmentationCase) -> None:
    """One target in a batch: a finite loss and finite gradients."""
    trial = case.trial(batch_size=1)
    _step(case, trial, "a batch of one target")


def check_user_with_one_item(case: AugmentationCase) -> None:
    """A user whose history is a single event (sequences: a single transition)."""
    histories = [[2, 0], [1, 3, 2], [4, 0, 1, 2]] if case.kind == "sequences" else [[2], [1, 3], [4, 0, 1]]
    _step(case, case.trial(log_of(histories, n_items=6), batch_size=4), "a user with one item")


def check_user_with_every_item(case: AugmentationCase) -> None:
    """No negative exists for a user who met the whole catalogue; the run goes on, with ids in the catalogue."""
    log = log_of([[0, 1, 2, 3, 4], [1, 3, 2], [4, 0]], n_items=5)
    trial = case.trial(log, batch_size=16)
    _step(case, trial, "a user with every item")
    for negatives in _negatives(ask(trial, trial.first_batch())[1]):
        if negatives.ids is not None and negatives.ids.numel():
            require(int(negatives.ids.min()) >= 0 and int(negatives.ids.max()) < 5, "negatives leave the catalogue")


def check_two_items(case: AugmentationCase) -> None:
    """The smallest catalogue in which anything can be ranked."""
    _step(case, case.trial(log_of([[0, 1], [1, 0], [1, 0, 1]], n_items=2), batch_size=4), "a catalogue of two items")


def check_first_epochs(case: AugmentationCase) -> None:
    """Schedules by epoch: any epoch number may come first, as after a resume."""
    trial = case.trial()
    plugin: Any = trial.step.plugins[0]
    for epoch in (1, 2, 1000):
        plugin.start_epoch(epoch)
        _step(case, trial, f"epoch {epoch}")


def check_memory(case: AugmentationCase) -> None:
    """No tensor as large as users x items is made in a step; what is made once, before an epoch, is not asked."""
    n_users, n_items, budget = 1500, 1200, case.declared.largest_mb * 2**20
    rows = torch.randint(n_items, (n_users, 3), generator=torch.Generator().manual_seed(0)).tolist()
    trial = case.trial(log_of(rows, n_items=n_items), batch_size=60)
    batch = trial.first_batch()
    plugin: Any = trial.step.plugins[0]
    plugin.start_epoch(1)
    encoded = trial.step.encode(batch)
    with torch.random.fork_rng(devices=[]), Largest() as largest:
        if batch.tokens is not None:
            plugin.inputs(batch, encoded.tables)
        plugin.targets(batch, encoded)
        plugin.losses(batch, encoded)
        for phase in plugin.phases():
            phase.loss(batch, encoded)
    limit = budget or n_users * n_items * 4 / 2
    found = f"{largest.bytes / 2**20:.2f} MiB ({largest.what})"
    require(largest.bytes < limit, f"a tensor of {found} in one step; the limit is {limit / 2**20:.2f} MiB")


def check_every_batch_of_an_epoch(case: AugmentationCase) -> None:
    """A whole epoch at an odd batch size, the last batch short, with finite losses."""
    trial = case.trial(batch_size=7, epochs=1)
    require(all(torch.isfinite(torch.tensor(fit(trial).losses))), "a loss of an epoch at batch size 7 is not finite")
    if isinstance(trial.batches, PairBatches):
        require(len(trial.batches.user) % 7 != 0, "the tiny log must leave a short last batch")


def _negatives(found: Additions) -> list[Negatives]:
    return [*([found.replaced] if found.replaced is not None else []), *found.appended]


def _step(case: AugmentationCase, trial: Any, what: str) -> None:
    """Every phase of one batch, backwards too."""
    trial.step.train()
    batch = trial.first_batch()
    for number, phase in enumerate(trial.step.phases):
        terms: dict[str, Tensor] = trial.step(batch, number)
        for name, term in terms.items():
            finite(term, f"{what}: term '{name}' of phase '{phase.name}'")
        loss = torch.stack(list(terms.values())).sum()
        if loss.requires_grad:
            loss.backward(retain_graph=phase.loss is not None)
    for name, parameter in trial.step.named_parameters():
        if parameter.grad is not None:
            finite(parameter.grad, f"{what}: the gradient of '{name}'")
    trial.step.zero_grad()


EVERY: tuple[Callable[[AugmentationCase], None], ...] = (
    check_acts_as_declared, check_inputs_are_kept, check_negatives, check_weights, check_positives,
    check_offsets_and_terms, check_views, check_batch_of_one, check_user_with_one_item, check_user_with_every_item,
    check_two_items, check_first_epochs, check_memory, check_every_batch_of_an_epoch,
)  # fmt: skip
