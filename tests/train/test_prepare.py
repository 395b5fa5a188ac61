"""Work before training is done once for all that depend on the same things."""

from __future__ import annotations

import torch

from augrec.seams import Plugin, Prepared
from augrec.train.prepare import key_of, prepare
from augrec.typed import Config


class NoConfig(Config):
    """Nothing to set."""


class Fitted(Plugin):
    """Prepares something that takes long."""

    name = "fitted"
    acts = frozenset({"weights"})
    prepares = True
    times = 0

    def prepare(self, train, fit, *, seed):
        type(self).times += 1
        return Prepared(tensors={"x": torch.arange(3.0) + seed})

    def load_prepared(self, prepared, train):
        self.got = prepared.tensors["x"]


def test_prepared_state_is_kept_by_what_it_depends_on(log, tmp_path):
    kind = type("Fitted", (Fitted,), {"times": 0})
    plugin = kind(NoConfig(), kind="pairs", dim=2, n_items=3)
    part = log.part(torch.arange(len(log)).numpy() != 5)
    for train, seed in ((log, 0), (log, 0), (part, 0), (log, 1)):
        assert prepare([plugin], train, None, seed=seed, cache=tmp_path) is train
        assert torch.equal(plugin.got, torch.arange(3.0) + seed)
    assert kind.times == 3
    assert len({key_of(plugin, train, seed) for train, seed in ((log, 0), (part, 0), (log, 1))}) == 3
    # Damaged: made again, not trusted and not fatal.
    folder = tmp_path / key_of(plugin, log, 0)
    (folder / "tensors.safetensors").write_bytes(b"?")
    prepare([plugin], log, None, seed=0, cache=tmp_path)
    prepare([plugin], log, None, seed=0, cache=tmp_path)
    assert kind.times == 4
    prepare([plugin], log, None, seed=0, cache=None)
    assert kind.times == 5


def test_all_load_beside_the_log_that_is_trained_on(log):
    """Also a plug-in that stands before the one that rewrites the log."""
    part = log.part(torch.arange(len(log)).numpy() != 5)

    class Rewrites(Plugin):
        name = "rewrites"
        prepares = True

        def prepare(self, train, fit, *, seed):
            return Prepared(train=part)

    class Reads(Plugin):
        name = "reads"

        def load_prepared(self, prepared, train):
            self.train_log = train

    first, second = (one(NoConfig(), kind="pairs", dim=2, n_items=3) for one in (Reads, Rewrites))
    assert prepare([first, second], log, None, seed=0, cache=None) is part
    assert first.train_log is part
