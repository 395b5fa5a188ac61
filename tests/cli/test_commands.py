"""What each command does when all is well: names and fields of its JSON, files it writes, their agreement."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from augrec.data import load, read_interactions

RESULT = {
    "augrec", "data", "split", "protocol", "model", "objective", "augment", "preset", "seed", "refit", "epochs",
    "valid", "test", "beyond_accuracy", "evaluations", "seconds", "peak_rss_mb", "deviations",
}  # fmt: skip
METRICS = {f"{name}@{k}" for name in ("recall", "ndcg", "hr", "mrr", "precision") for k in (5, 10, 20)}


def test_data_list(cli, monkeypatch, tmp_path, small):
    rows = {row["name"]: row for row in cli("data", "list", "--json").json}
    assert rows["beauty"]["state"] == "embedded"
    assert (rows["beauty"]["users"], rows["beauty"]["items"], rows["beauty"]["interactions"]) == (22363, 12101, 198502)
    assert rows["ml-1m"]["state"] == "to fetch"
    (tmp_path / "mine").mkdir()
    pl.read_csv(small).write_parquet(tmp_path / "mine" / "shop.parquet")
    monkeypatch.setenv("AUGREC_DATA", str(tmp_path / "mine"))
    rows = {row["name"]: row for row in cli("data", "list", "--json").json}
    assert rows["shop"]["interactions"] == pl.read_csv(small).height
    assert "shop" in cli("data", "list").out
    assert cli("data", "show", "shop", "--json").json["users"] == 60


def test_data_show_counts_what_is_there(cli, small):
    frame = pl.read_csv(small)
    facts = cli("data", "show", small, "--json").json
    assert facts["users"] == frame["user"].n_unique()
    assert facts["items"] == frame["item"].n_unique()
    assert facts["interactions"] == frame.height
    lengths = frame.group_by("user").len()["len"]
    spread = facts["events per user (min / median / mean / max)"].split(" / ")
    assert [float(one) for one in spread] == pytest.approx(
        [lengths.min(), lengths.median(), lengths.mean(), lengths.max()], abs=0.005
    )
    assert facts["repeated (user, item) events"] == 0
    assert facts["time"].startswith("2017-07-14 to ")
    assert "small" in cli("data", "show", small).out


def test_data_import_gives_the_same_log(cli, small):
    said = cli("data", "import", small, "--out", "log.parquet", "--json").json
    assert said["out"] == "log.parquet"
    one, two = read_interactions(small), read_interactions("log.parquet")
    for name in ("user", "item", "offsets", "timestamp"):
        assert (getattr(one, name) == getattr(two, name)).all()
    assert one.users.ids.equals(two.users.ids)
    assert one.items.ids.equals(two.items.ids)
    assert [path.name for path in Path().iterdir()] == ["log.parquet"]


def test_data_fetch_says_what_stops_it_and_leaves_nothing(cli, monkeypatch, tmp_path):
    import urllib.error
    import urllib.request

    def offline(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    answer = cli("data", "fetch", "ml-100k")
    assert answer.code == 2
    assert "cannot be reached" in answer.message
    assert "files.grouplens.org" in answer.message
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    wanted = cli("data", "show", "ml-100k")
    assert wanted.code == 2
    assert "augrec data fetch ml-100k" in wanted.message
    pl.DataFrame({"user": [1, 1, 2], "item": [1, 2, 1]}).write_parquet(tmp_path / "cache" / "ml-100k.parquet")
    assert cli("data", "fetch", "ml-100k", "--json").json["path"] == str(tmp_path / "cache" / "ml-100k.parquet")
    assert cli("data", "show", "ml-100k", "--json").json["interactions"] == 3


def test_models_lists_every_family(cli):
    rows = {row["name"]: row["family"] for row in cli("models", "--json").json}
    for name in ("mf", "lightgcn", "sasrec", "bert4rec", "gru4rec"):
        assert rows[name] == "backbone"
    for name in ("popularity", "itemknn", "ease"):
        assert rows[name] == "baseline"
    assert {"bpr", "bce", "softmax", "sampled-softmax"} <= {n for n, family in rows.items() if family == "objective"}
    assert {"adar", "adar-gaussian"} <= {n for n, family in rows.items() if family == "augmentation"}
    assert "lightgcn" in cli("models").out


def test_doctor_finds_this_installation_sound(cli, monkeypatch):
    checks = {check["name"]: check for check in cli("doctor", "--json").json}
    assert all(check["ok"] for check in checks.values())
    assert "198,502" in checks["embedded data"]["found"]
    assert "training step" in checks
    monkeypatch.setenv("AUGREC_DATA", "nowhere")
    answer = cli("doctor", "--json")
    assert answer.code == 1
    bad = [check for check in json.loads(answer.out) if not check["ok"]]
    assert [check["name"] for check in bad] == ["AUGREC_DATA"]
    assert "folder" in bad[0]["mend"]


def test_result_has_the_promised_fields(runs):
    for model, run in runs.items():
        result = json.loads((run / "result.json").read_text())
        assert set(result) >= RESULT
        assert set(result["data"]) == {"name", "sha256", "users", "items", "interactions"}
        assert set(result["protocol"]) >= {"ranking", "seen_items", "ties", "selected_on"}
        assert set(result["epochs"]) >= {"run", "best", "stopped_early"}
        assert set(result["seconds"]) >= {"prepare", "train", "epoch_median", "evaluate"}
        assert set(result["valid"]) == set(result["test"]) == METRICS
        assert set(result["evaluations"][0]) >= {"protocol", "part", "metrics"}
        assert result["model"] == model
        assert result["data"]["users"] == 60
        assert {path.name for path in run.iterdir()} >= {"config.json", "result.json", "bundle", "per_user.parquet"}
        mean = pl.read_parquet(run / "per_user.parquet")["recall@10"].mean()
        assert mean == pytest.approx(result["test"]["recall@10"])
        train, valid, test = (result["split"][part] for part in ("train", "valid", "test"))
        assert train + valid + test == result["data"]["interactions"]


def test_train_prints_its_result_and_where_it_lies(cli, small):
    arguments = ("train", "--data", small, "--model", "mf", "--augment", "adar", "--epochs", "2", "--seed", "3",
                 "--set", "train.threads=1", "--set", "adar.steps=4", "--refit")  # fmt: skip
    result = cli(*arguments, "--json").json
    (run,) = Path("runs").iterdir()
    assert run.name == "small-mf-bpr-adar-seed3"
    assert json.loads((run / "result.json").read_text()) == result
    assert result["augment"] == ["adar"]
    assert result["refit"] is True
    config = json.loads((run / "config.json").read_text())
    assert config["parts"]["adar"]["steps"] == 4
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    shown = cli("train", "--resume", "--out", run)
    assert shown.code == 0
    assert f"run directory: {run}" in shown.out
    assert "mf + adar on small" in shown.out
    assert f"{result['test']['recall@20']:.4f}" in shown.out


def test_same_command_twice_gives_the_same_bytes(cli, small):
    for name in ("one", "two"):
        assert cli("train", "--data", small, "--model", "gru4rec", "--epochs", "1", "--set", "train.threads=1",
                   "--out", name).code == 0  # fmt: skip
    for file in ("weights.safetensors", "history.safetensors", "users.parquet"):
        assert Path("one/bundle", file).read_bytes() == Path("two/bundle", file).read_bytes()


def test_evaluate_repeats_the_runs_own_figures_and_adds_others(cli, small):
    first = cli("train", "--data", small, "--model", "itemknn", "--out", "run", "--json").json
    again = cli("evaluate", "run", "--json").json
    assert again["metrics"] == first["test"]
    assert cli("evaluate", "run", "--split-part", "valid", "--json").json["metrics"] == first["valid"]
    assert cli("evaluate", "run", "--seen-items", "keep", "--json").json["protocol"]["seen_items"] == "keep"
    listed = json.loads(Path("run/result.json").read_text())["evaluations"]
    assert len(listed) == 3  # kept, masked, valid: the same protocol twice is listed once
    assert "recall@20" in cli("evaluate", "run").out


def test_sampled_evaluation_says_that_it_is_biased(cli, tmp_path):
    frame = pl.DataFrame([(u, (u * 7 + j * 13) % 160) for u in range(40) for j in range(6)], orient="row",
                         schema=["user", "item"])  # fmt: skip
    frame.write_csv("wide.csv")
    assert cli("train", "--data", "wide.csv", "--model", "popularity", "--out", "run").code == 0
    found = cli("evaluate", "run", "--protocol", "sampled99", "--json").json
    assert found["protocol"]["biased"] is True
    assert "hr@10" in found["metrics"]
    assert "biased" in cli("evaluate", "run", "--protocol", "sampled99").out


def test_evaluate_where_the_data_moved_or_changed(cli, small):
    Path("a.csv").write_bytes(small.read_bytes())
    assert cli("train", "--data", "a.csv", "--model", "popularity", "--out", "run").code == 0
    Path("a.csv").rename("b.csv")
    moved = cli("evaluate", "run")
    assert moved.code == 2
    assert "a.csv" in moved.message
    assert "--data" in moved.message
    assert cli("evaluate", "run", "--data", "b.csv").code == 0
    pl.read_csv("b.csv").head(300).write_csv("c.csv")
    changed = cli("evaluate", "run", "--data", "c.csv")
    assert changed.code == 2
    assert "not what the run was made on" in changed.message


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_recommend_writes_every_format(cli, runs, ending):
    said = cli("recommend", runs["mf"], "--k", "4", "--out", f"r.{ending}", "--json").json
    assert said == {"out": f"r.{ending}", "users": 60, "recommendations": 240}
    read = {"parquet": pl.read_parquet, "csv": pl.read_csv, "jsonl": pl.read_ndjson}[ending]
    lists = read(f"r.{ending}")
    assert lists.columns == ["user", "item", "rank", "score"]
    assert lists["rank"].to_list() == [1, 2, 3, 4] * 60
    assert all(one["score"].is_sorted(descending=True) for one in lists.partition_by("user"))


def test_recommend_prints_and_leaves_seen_items_out(cli, runs, small):
    rows = cli("recommend", runs["sasrec"], "--k", "5", "--json").json
    seen = set(pl.read_csv(small).select("user", "item").iter_rows())
    assert len(rows) == 300
    assert not seen & {(row["user"], row["item"]) for row in rows}
    again = cli("recommend", runs["sasrec"], "--k", "40", "--seen", "--json").json
    assert seen < {(row["user"], row["item"]) for row in again}
    assert "u000" in cli("recommend", runs["sasrec"], "--k", "2").out


def test_recommend_more_than_the_catalogue_gives_all_that_is_left(cli, runs, small):
    rows = cli("recommend", runs["mf"], "--k", "1000", "--json").json
    left = 60 * 40 - pl.read_csv(small).select("user", "item").unique().height
    assert len(rows) == left


def test_users_allow_and_deny(cli, runs):
    Path("users.txt").write_text("u003\n\nu001\n", encoding="utf-8")
    Path("allow.txt").write_text("i01\ni02\ni03\ni04\nnosuch\n", encoding="utf-8")
    Path("deny.txt").write_text("i02\n", encoding="utf-8")
    rows = cli("recommend", runs["itemknn"], "--users", "users.txt", "--allow", "allow.txt", "--deny", "deny.txt",
               "--seen", "--json").json  # fmt: skip
    assert [row["user"] for row in rows] == ["u003"] * 3 + ["u001"] * 3
    assert {row["item"] for row in rows} == {"i01", "i03", "i04"}


def test_unknown_users_fail_skip_or_get_what_is_popular(cli, runs, small):
    Path("users.txt").write_text("u001\nstranger\n", encoding="utf-8")
    refused = cli("recommend", runs["mf"], "--users", "users.txt")
    assert refused.code == 2
    assert "'stranger'" in refused.message
    skipped = cli("recommend", runs["mf"], "--users", "users.txt", "--unknown", "skip", "--k", "3", "--json").json
    assert {row["user"] for row in skipped} == {"u001"}
    rows = cli("recommend", runs["mf"], "--users", "users.txt", "--unknown", "popular", "--k", "3", "--json").json
    top = pl.read_csv(small)["item"].value_counts().sort(["count", "item"], descending=[True, False])
    assert [row["item"] for row in rows if row["user"] == "stranger"] == top["item"].head(3).to_list()


def test_histories_of_strangers(cli, runs, small):
    pl.DataFrame({"user": ["new", "new", "also"], "item": ["i01", "i02", "i03"]}).write_csv("new.csv")
    rows = cli("recommend", runs["sasrec"], "--histories", "new.csv", "--k", "3", "--json").json
    assert {row["user"] for row in rows} == {"new", "also"}
    assert not {("new", "i01"), ("new", "i02"), ("also", "i03")} & {(row["user"], row["item"]) for row in rows}
    refused = cli("recommend", runs["mf"], "--histories", "new.csv")
    assert refused.code == 2
    assert "mf has vectors for the users it was trained on" in refused.message
    pl.DataFrame({"user": ["new"], "item": ["unheard"]}).write_csv("odd.csv")
    unknown = cli("recommend", runs["itemknn"], "--histories", "odd.csv")
    assert unknown.code == 2
    assert "'unheard'" in unknown.message


def test_beauty_is_the_default(cli):
    assert cli("data", "show", "beauty", "--json").json["interactions"] == len(load("beauty"))
