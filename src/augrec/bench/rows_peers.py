"""Rows against other libraries: epochs over the same transitions, evaluation of the same users, sampling, starting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from augrec.bench.rows import Arm, Row, faster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from augrec.bench.rows import Goal

_LOG = "Beauty (22,363 users, 12,101 items), leave-one-out, width 64, Adam 1e-3"
_SEQUENCE_WORK = (
    f"{_LOG}; the same 131,413 train transitions, each trained once an epoch; 2 layers, 2 heads, inner width 256, "
    "histories of 50 (GRU4Rec: one layer, hidden width 128)"
)
_PADDING = (
    "RecBole trains one row a prefix, padded to 50 items, in batches of 256; RecTools one row a user, padded to 50 (so "
    "128,031 of the transitions), in batches of 256 and with its own dropout (.2); we train whole windows without "
    "padding in batches of 512 targets. Seconds of peers are those of some full batches scaled to an epoch: each is "
    "padded to the same length"
)
_PAIR_WORK = (
    f"{_LOG}; the same 153,776 train pairs, each trained once an epoch with one sampled negative, 2,048 a batch"
)


def _ours(model: str, objective: str, *, overrides: Mapping[str, Any] | None = None, name: str = "augrec") -> Arm:
    settings = {"model": model, "objective": objective, "split": "leave-one-out", "unit": "epoch"}
    if overrides:
        settings["overrides"] = dict(overrides)  # type: ignore[assignment]
    return Arm(name=name, settings=settings, quick={"batches": 2})


def _recbole(model: str, *, batches: int, name: str = "recbole", **settings: Any) -> Arm:
    """`batches` of its batches are timed; 0 is the whole epoch."""
    given = {"model": model, **settings} | ({"batches": batches} if batches else {})
    return Arm(name=name, program="recbole", settings=given, quick={"batches": 1})


def _rectools(model: str, loss: str, batches: int) -> Arm:
    settings = {"model": model, "loss": loss, "batches": batches}
    return Arm(name="rectools", program="rectools", settings=settings, quick={"batches": 1})


def _sequences(name: str, ours: Arm, peers: tuple[Arm, ...], goals: tuple[Goal, ...], more: str = "") -> Row:
    return Row(
        name=f"epoch/{name}", about=f"an epoch of {name}", unit="epoch", arms=(ours, *peers), equal=_SEQUENCE_WORK,
        unequal=_PADDING + more, goals=goals, covers=(ours.settings["model"],),
        floor="epoch",
    )  # fmt: skip


def _pairs(name: str, model: str, peers: tuple[Arm, ...], goals: tuple[Goal, ...], unequal: str) -> Row:
    return Row(
        name=f"epoch/{name}", about=f"an epoch of {name}", unit="epoch", arms=(_ours(model, "bpr"), *peers),
        equal=_PAIR_WORK, unequal=unequal, goals=goals, covers=(model,), floor="epoch",
    )  # fmt: skip


def _epochs() -> list[Row]:
    anomaly = (
        ". RecBole's sequential models run in autograd's anomaly mode, which one of its modules switches on at import"
    )
    off = "; recbole-off is what a user gets who knows"
    return [
        _sequences(
            "sasrec-softmax", _ours("sasrec", "softmax"),
            (_recbole("SASRec", batches=8, loss="CE"),
             _recbole("SASRec", batches=8, loss="CE", anomaly="off", name="recbole-off"),
             _rectools("SASRec", "softmax", 2)),
            (faster("recbole", 18, 25), faster("rectools", 18, 25)), anomaly + off,
        ),
        _sequences(
            "sasrec-bpr", _ours("sasrec", "bpr"),
            (_recbole("SASRec", batches=8, loss="BPR"),
             _recbole("SASRec", batches=4, loss="BPR", batch_size=512, name="recbole-512")),
            (faster("recbole", 70, 100),), anomaly + "; recbole-512 has batches of 512 rows, as we",
        ),
        _sequences(
            "sasrec-bce", _ours("sasrec", "bce", overrides={"train": {"batch_size": 1494}}),
            (_rectools("SASRec", "BCE", 16), _ours("sasrec", "bce", name="augrec-512")),
            (faster("rectools", 6),),
            ". Here we train 1,494 targets a batch, so that both make 88 steps an epoch; augrec-512 is our default",
        ),
        _sequences(
            "gru4rec-softmax", _ours("gru4rec", "softmax"), (_recbole("GRU4Rec", batches=12, loss="CE"),),
            (faster("recbole", 12, 20),), anomaly,
        ),
        _sequences(
            "bert4rec-softmax", _ours("bert4rec", "softmax"),
            (_recbole("BERT4Rec", batches=4, loss="CE"), _rectools("BERT4Rec", "softmax", 2)),
            (faster("recbole", 15, 25),),
            anomaly + ". Each program hides items in its own way, so targets differ: an epoch shows every row once",
        ),
        _pairs(
            "lightgcn-bpr", "lightgcn", (_recbole("LightGCN", batches=0),), (faster("recbole", 4, 6),),
            "3 layers, L2 1e-4 for both; loaders and samplers are each program's own",
        ),
        _pairs(
            "ngcf-bpr", "ngcf", (_recbole("NGCF", batches=8),), (faster("recbole", 3, 5),),
            "3 layers of 64 for both; message dropout as each program has it by default",
        ),
        _pairs(
            "mf-bpr", "mf", (_recbole("BPR", batches=0), Arm(name="implicit", program="implicit")),
            (faster("recbole", 2, 4),),
            "implicit's is not the same program: plain stochastic gradient descent in C++, one pair at a time without "
            "batches, 63 factors and a bias",
        ),
        Row(
            name="epoch/cadirec", about="an epoch of SASRec with CaDiRec", unit="epoch",
            arms=(_with("sasrec", "bce", "cadirec"),), equal=_SEQUENCE_WORK,
            unequal="its own code is not run beside ours: the figures are those once measured on this kind of machine "
            "(2 threads, quiet, batches of 256 padded to 50, SASRec with a DeBERTa denoiser, T = 1000)",
            goals=(faster("cadirec's code", 15, 30),),
            recorded={"cadirec's code": {
                "seconds": 277.0, "peak_rss_mb": 6600, "source": "its repository, torch 2.13, two hard-coded .cuda() "
                "calls taken out; 157 s for 50 batches, not run in turn with ours",
            }},
            covers=("cadirec",), floor="epoch",
        ),
    ]  # fmt: skip


def _with(model: str, objective: str, augment: str) -> Arm:
    settings = {
        "model": model, "objective": objective, "augment": [augment], "split": "leave-one-out", "unit": "epoch",
    }  # fmt: skip
    return Arm(name="augrec", settings=settings, quick={"batches": 1})


def _evaluation(model: str, objective: str) -> Arm:
    settings = {"model": model, "objective": objective, "split": "leave-one-out"}
    return Arm(name="augrec", task="evaluate", settings=settings, quick={"users": 2000})


def _judged(model: str, name: str, *, quick: int, **settings: Any) -> Arm:
    return Arm(
        name=name, program="recbole", task="evaluate", settings={"model": model, **settings}, quick={"batches": quick}
    )  # fmt: skip


def _evaluations() -> list[Row]:
    work = f"{_LOG}; all 22,363 test users, all items ranked, recall and NDCG at 10 and 20"
    return [
        Row(
            name="evaluate/mf", about="full-ranking evaluation, matrix factorisation", unit="evaluation",
            arms=(
                _evaluation("mf", "bpr"), _judged("BPR", "recbole", quick=50),
                _judged("BPR", "recbole-tuned", quick=2, tuned=True),
                Arm(name="implicit", program="implicit", task="evaluate"),
            ),
            equal=f"{work}; seen items masked",
            unequal="RecBole ranks one user a batch by default (recbole) and 512 when told to (recbole-tuned); "
            "implicit makes lists of 20 only, without metrics",
            goals=(faster("recbole", 8), faster("recbole-tuned", 2)), floor="evaluate", covers=("mf",),
        ),
        Row(
            name="evaluate/lightgcn", about="full-ranking evaluation, LightGCN", unit="evaluation",
            arms=(
                _evaluation("lightgcn", "bpr"), _judged("LightGCN", "recbole", quick=50),
                _judged("LightGCN", "recbole-tuned", quick=2, tuned=True),
            ),
            equal=f"{work}; seen items masked", unequal="as for evaluate/mf; the propagation is part of it",
            goals=(faster("recbole", 8), faster("recbole-tuned", 2)), floor="evaluate", covers=("lightgcn",),
        ),
        Row(
            name="evaluate/sasrec", about="full-ranking evaluation, SASRec", unit="evaluation",
            arms=(
                _evaluation("sasrec", "softmax"), _judged("SASRec", "recbole", quick=1, loss="CE"),
                Arm(name="rectools", program="rectools", task="evaluate", settings={"model": "SASRec", "loss": "BCE"},
                    quick={"users": 512}),
            ),
            equal=f"{work}; seen items kept", unequal="peers encode histories padded to 50, we encode what is there",
            goals=(faster("recbole", 8),), floor="evaluate", covers=("sasrec",),
        ),
        Row(
            name="evaluate/gru4rec", about="full-ranking evaluation, GRU4Rec", unit="evaluation",
            arms=(_evaluation("gru4rec", "softmax"), _judged("GRU4Rec", "recbole", quick=1, loss="CE")),
            equal=f"{work}; seen items kept", unequal="RecBole encodes histories padded to 50, we encode what is there",
            goals=(faster("recbole", 8),), floor="evaluate", covers=("gru4rec",),
        ),
    ]  # fmt: skip


def _sampling() -> Row:
    settings = {"model": "mf", "split": "leave-one-out", "rows": 2048, "k": 1}
    return Row(
        name="sampling/uniform", about="one negative for each of 2,048 users, outside their train items", unit="batch",
        arms=(
            Arm(name="augrec", task="sample", settings=settings),
            Arm(name="naive", task="sample", settings=settings | {"naive": True}),
            Arm(name="recbole", program="recbole", task="sample", settings={"rows": 2048, "k": 1}),
        ),
        equal="the same number of draws, uniform over the items that a user has no train event with",
        unequal="the naive arm draws one by one and again while the user has the item; RecBole draws for all and again "
        "for those that collide",
        goals=(faster("recbole", 1),),
    )  # fmt: skip


def _start() -> list[Row]:
    def command(name: str, program: str, *arguments: str) -> Arm:
        return Arm(name=name, program=program, task="command", settings={"arguments": list(arguments)})

    return [
        Row(
            name="start/import", about="a new process imports the library", unit="process",
            arms=(
                command("augrec", "augrec", "-c", "import augrec"), command("python", "augrec", "-c", "pass"),
                command("recbole", "recbole", "-c", "import recbole.quick_start"),
                command("rectools", "rectools", "-c", "import rectools.models"),
                command("implicit", "implicit", "-c", "import implicit"),
            ),
            equal="a fresh interpreter each time, compiled files there; `python` is the interpreter alone",
            unequal="ours loads its parts on first use; the next row shows a command that uses them",
        ),
        Row(
            name="start/help", about="the command line says what it can", unit="process",
            arms=(
                command("augrec", "augrec", "-m", "augrec", "--help"), command("python", "augrec", "-c", "pass"),
                command("augrec train --help", "augrec", "-m", "augrec", "train", "--help"),
            ),
            equal="a fresh interpreter each time", unequal="the peers have no command line",
        ),
    ]  # fmt: skip


def peer_rows() -> list[Row]:
    """Rows with other libraries in them."""
    return [*_epochs(), *_evaluations(), _sampling(), *_start()]
