"""What a comparison may say: paired tests between cells, Holm over all of them, and words that fit the seeds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from augrec.errors import AugrecError
from augrec.evaluate.metrics import NAMES
from augrec.evaluate.significance import compare_users, holm, seed_t_test

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from augrec.experiment.config import RunConfig

ALPHA = 0.05
_WORDS = {1: "one seed", 2: "two seeds", 3: "three seeds", 4: "four seeds", 5: "five seeds"}


def metric_names(config: RunConfig) -> list[str]:
    """The accuracy metrics a run's evaluation gives."""
    return [f"{name}@{k}" for k in config.part("evaluate").ks for name in NAMES]


@dataclass(frozen=True, kw_only=True, eq=False)
class PerUser:
    """Test metrics of one cell: by seed, then by metric, (n,) values in the order of `users`."""

    users: pl.Series
    train_events: NDArray[np.int64]
    """(n,) train events of each user."""
    values: Mapping[int, Mapping[str, NDArray[np.float64]]]


def read_per_user(files: Mapping[int, Path], metrics: Sequence[str]) -> PerUser:
    """Per-user test metrics of a cell's runs by seed. Raises `AugrecError` where their users differ or a file is
    missing."""
    users: pl.Series | None = None
    events: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    values: dict[int, dict[str, NDArray[np.float64]]] = {}
    for seed, path in files.items():
        try:
            frame = pl.read_parquet(path, columns=["user", "train_events", *metrics])
        except (OSError, pl.exceptions.PolarsError) as error:
            raise AugrecError(f"{path}: cannot be read ({error}); remove that run's folder and call again") from None
        if users is not None and not users.equals(frame["user"]):
            raise AugrecError(f"{path}: not the users of the other seeds, so they cannot be paired")
        users, events = frame["user"], frame["train_events"].to_numpy()
        values[seed] = {name: frame[name].to_numpy() for name in metrics}
    assert users is not None
    return PerUser(users=users, train_events=events, values=values)


def compare_cells(
    cells: Mapping[str, PerUser], pairs: Sequence[tuple[str, str]], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Every pair (a, b) on every metric over the seeds both have, with Holm's correction over the whole list.

    A user counts once: its values are averaged over seeds first. `p_seeds` is the paired t-test over seed means, None
    with one seed. Raises `AugrecError` where the users of two cells differ.
    """
    rows: list[dict[str, Any]] = []
    # The smallest p of m flips is 1 / (m + 1): large families need more flips, or Holm could never reject.
    flips = max(9999, 100 * len(pairs) * len(metrics))
    for a, b in pairs:
        seeds = sorted(set(cells[a].values) & set(cells[b].values))
        if not seeds:
            continue
        if not cells[a].users.equals(cells[b].users):
            raise AugrecError(f"{a} and {b} were judged on different users, so they cannot be paired")
        for metric in metrics:
            first, second = (np.stack([cells[name].values[seed][metric] for seed in seeds]) for name in (a, b))
            found = compare_users(first, second, rng=0, permutations=flips)
            by_seed = first.mean(axis=1) - second.mean(axis=1)
            row = {"a": a, "b": b, "metric": metric, "seeds": seeds, **asdict(found)}
            row |= {
                "relative": found.difference / found.mean_b if found.mean_b else None,
                "p_seeds": seed_t_test(first.mean(axis=1), second.mean(axis=1)) if len(seeds) > 1 else None,
                "difference_by_seed": by_seed.tolist(),
                "seeds_a_ahead": int((by_seed > 0).sum()),
            }
            del row["seeds_a"], row["seeds_b"]
            rows.append(row)
    for test in ("t", "wilcoxon", "permutation"):
        for row, adjusted in zip(rows, holm([row[f"p_{test}"] for row in rows]), strict=True):
            row[f"holm_{test}"] = float(adjusted)
    for row in rows:
        row["finding"] = finding(row)
        row["verdict"] = verdict(row)
    return rows


def by_activity(cells: Mapping[str, PerUser], metric: str, *, groups: int = 4) -> list[dict[str, Any]]:
    """Each cell's mean of `metric` within groups of users of about equal size, from few train events to many.

    Users with equally many events stay together, so groups differ in size and there may be fewer. Not tested.
    """
    if not cells:
        return []
    first = next(iter(cells.values()))
    events = first.train_events
    cuts = np.unique(np.quantile(events, np.linspace(0, 1, groups + 1)[1:-1], method="lower"))
    group = np.searchsorted(cuts, events)
    rows = []
    for number in np.unique(group):
        inside = group == number
        means = {
            name: float(np.mean([values[metric][inside].mean() for values in cell.values.values()]))
            for name, cell in cells.items()
            if cell.users.equals(first.users)
        }
        low, high = int(events[inside].min()), int(events[inside].max())
        rows.append({"train_events": [low, high], "users": int(inside.sum()), "metric": metric, "mean": means})
    return rows


def finding(row: Mapping[str, Any]) -> str:
    """ "higher", "lower" or "none": the permutation test over users under Holm, and from two seeds on the t-test over
    seeds, both at 5 %; "users only" where just the first agrees."""
    if row["holm_permutation"] > ALPHA or row["difference"] == 0:
        return "none"
    if row["p_seeds"] is not None and row["p_seeds"] > ALPHA:
        return "users only"
    return "higher" if row["difference"] > 0 else "lower"


def standing(seeds: int) -> str:
    """What this many seeds allow to be said."""
    if seeds == 1:
        return "one seed: no test over seeds; not a claim"
    if seeds == 2:
        return "two seeds: a measurement takes three; not a claim"
    return f"{seeds_text(seeds)}: {'a measurement' if seeds < 5 else 'a claim'}"


def seeds_text(seeds: int) -> str:
    """ "three seeds"."""
    return _WORDS.get(seeds, f"{seeds} seeds")


def verdict(row: Mapping[str, Any]) -> str:
    """One sentence on one comparison."""
    gain = "" if row["relative"] is None else f" ({row['relative']:+.2%})"
    count = len(row["seeds"])
    over_seeds = "" if row["p_seeds"] is None else f", over seeds p = {row['p_seeds']:.2g}"
    tested = f"over users Holm p = {row['holm_permutation']:.2g}{over_seeds}"
    what = f"{row['metric']} of {row['a']}"
    if row["finding"] in ("higher", "lower"):
        return f"{what} is {row['finding']} than that of {row['b']}{gain}; {tested}; {standing(count)}"
    if row["finding"] == "users only":
        side = "higher" if row["difference"] > 0 else "lower"
        return (
            f"{what} is {side} than that of {row['b']}{gain} for these trained models, but not shown beyond the luck "
            f"of seeds; {tested}; {seeds_text(count)}: not a claim"
        )
    weak = standing(count) if count < 3 else f"{seeds_text(count)}: nothing is claimed"
    return f"{what} is not shown to differ from that of {row['b']}{gain}; {tested}; {weak}"


def conclusion(cell: str, noise: Sequence[str], rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """What the primary metric says about an augmentation against its base and its noise arms together."""
    found = {row["b"]: row for row in rows if row["a"] == cell and row["metric"] == metric}
    if "base" not in found:
        return f"{cell}: not finished"
    against = found["base"]
    count = len(against["seeds"])
    if against["finding"] == "lower":
        return f"{cell} is below base in {metric}; {standing(count)}"
    if against["finding"] != "higher":
        return f"{cell} is not shown to raise {metric} over base; {seeds_text(count) if count > 2 else standing(count)}"
    better = [name for name in noise if name in found and found[name]["finding"] == "higher"]
    level = [name for name in noise if name in found and name not in better]
    missing = [name for name in noise if name not in found]
    text = f"{cell} is above base in {metric}"
    if better:
        text += f" and above its noise arm{'s' if len(better) > 1 else ''} {', '.join(better)}"
    if level:
        text += f", but not shown to be above {', '.join(level)}: noise alone may explain the gain"
    if missing:
        text += f"; without {', '.join(missing)} nothing says that it is more than noise"
    if not noise:
        text += "; no noise arm is known for it"
    return f"{text}; {standing(count)}"
