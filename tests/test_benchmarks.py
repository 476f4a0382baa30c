"""The benchmarks run: everything tiny, so that nothing is measured. Speeds are in benchmarks/results, never in a test."""
import json
from pathlib import Path

import pytest
import torch

from benchmarks import common, cpu, plain_loop, study, trace
from benchmarks.table import number, table
from nonspeech7k.recipe import read_recipe


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> cpu.Bench:
    return cpu.Bench(tmp_path_factory.mktemp("bench"), runs=1, quick=True)


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("NONSPEECH7K_PROGRESS", "off")


@pytest.mark.parametrize("name", ["training", "bank", "front_end", "classifier", "linear"])
def test_a_group_measures_something(bench, name):
    figures = cpu.GROUPS[name](bench)
    assert figures and all(value > 0 for figure in figures for value in figure.values)
    assert len({figure.name for figure in figures}) == len(figures)


def test_what_needs_a_process_of_its_own_is_measured_in_one(bench):
    (memory,) = cpu.memory(bench)
    assert 0.05 < memory.values[0] < 2, "GB that a process with PyTorch holds for itself"


def test_ratios_are_those_of_the_two_that_are_compared():
    ratio, library, plain = cpu.ratio_figures("x", "x", "x", {"plain": [8.0, 9.0], "library": [2.0, 3.0]}, 12, 4)
    assert ratio.values == (4.0, 3.0) and library.values == (6.0, 4.0) and plain.values == (1.5, 12 / 9)
    slower, *_ = cpu.ratio_figures("x", "x", "x", {"plain": [1.0], "library": [2.0]}, 12, 4)
    assert slower.record(None)["reached"] is False, "a slower library shows"


def test_a_record_tells_median_spread_runs_and_whether_the_target_is_reached():
    record = common.Figure("a", "what", "s", (3.0, 1.0, 2.0), target=2.5, at_least=False).record("abc")
    assert (record["median"], record["min"], record["max"], record["runs"]) == (2.0, 1.0, 3.0, 3)
    assert record["reached"] is True and record["revision"] == "abc"
    assert common.Figure("a", "what", "s", (3.0,), target=3.0, at_least=True).record(None)["reached"] is True
    assert common.Figure("a", "what", "s", (3.0,)).record(None)["reached"] is None


def test_figures_of_another_machine_are_not_mixed():
    here, there = ({"machine": {"cpu": cpu_name, "revision": "1"}, "figures": {name: 1}} for cpu_name, name in ("ab", "ba"))
    again = {"machine": {"cpu": "a", "revision": "2"}, "figures": {"c": 3}}
    assert cpu.joined(there, here) == here and cpu.joined({}, here) == here
    assert set(cpu.joined(here, again)["figures"]) == {"b", "c"}


def test_every_stored_result_makes_a_table():
    text = table({"machine": common.machine(), "figures": {
        "a": common.Figure("a", "speed", "clips/s", (2412.0,), 2000).record("abc"),
        "b": common.Figure("b", "start", "s", (0.5,), 0.4, False).record("abc")}})
    assert "| speed | ≥ 2,000 clips/s | 2,412 clips/s |" in text and "**no**" in text and "abc" in text
    assert number(0.02514) == "0.0251"
    for path in common.RESULTS.glob("cpu.json"): assert table(json.loads(path.read_text(encoding="utf-8")))


def test_the_plain_loop_makes_a_whole_study(bench):
    recipe, (files, targets) = bench.recipe("train.epochs=1"), bench.demo
    result = plain_loop.study(files, targets, torch.arange(len(files)).numpy() % 4, max(targets) + 1, recipe, workers=0)
    assert list(result["histories"]) == ["fold 1", "fold 2", "fold 3", "final"] and 0 <= result["test_accuracy"] <= 1


def test_the_plan_is_that_of_nonspeech7k():
    plan = study.plan(1, seed=1)
    assert plan["split"].value_counts().to_dict() == {"train": 6289, "test": 725}
    for label, (_, _, mean) in common.NONSPEECH7K.items():
        durations = plan.loc[plan["label"] == label, "duration"]
        assert durations.between(0.5, 4).all() and abs(durations.mean() - mean) < 0.1


def test_the_floor_counts_the_reference_network():
    clip = study.work(read_recipe("nonspeech7k"), torch.zeros(1, 1, 128, 251))
    assert round(clip["forward_flops"] / 1e9, 2) == 2.76
    top = {"flops": {"float32": 1e12}, "bytes": 1e9}
    floor = study.floor(clip, top, torch.float32, trained=1000, judged=0)
    assert floor["products_s"] == pytest.approx(1000 * 3 * clip["forward_flops"] / 1e12)


def test_a_shortened_study_says_so_and_writes_nothing(capsys):
    before = sorted(common.RESULTS.iterdir())
    tiny = [part for change in common.TINY for part in ("--set", change)]
    assert study.main(["--device", "cpu", "--share", "0.002", "--epochs", "1", "--batch", "8", *tiny]) == 0
    assert "SHORTENED" in capsys.readouterr().out and sorted(common.RESULTS.iterdir()) == before


def test_a_trace_is_drawn(bench, tmp_path):
    trace.main(["--quick", "--scratch", str(bench.folder), "--out", str(tmp_path / "step.png")])
    assert 5_000 < Path(tmp_path / "step.png").stat().st_size < 150_000


def test_rejection_is_judged_over_all_rounds():
    import numpy as np
    import pandas as pd

    from benchmarks import rejection
    scores = np.r_[np.arange(20.0), np.arange(-5.0, 5.0)]
    asked = pd.DataFrame({"set": ["known"] * 20 + ["left_out"] * 10, "label": ["a", "b"] * 15,
                          "group": np.arange(30) // 2, "energy": scores, "max_probability": scores})
    rounds = [{"asked": asked, "settings": {score: {"threshold": 1.0} for score in rejection.SCORES}}] * 2
    found = rejection.detection(rounds, "left_out")
    assert found["known"] == 40 and found["foreign"] == 20 and found["energy"]["auroc"]["by_round"] == [0.9375] * 2
    low, high = found["energy"]["auroc"]["ci95"]
    assert low <= found["energy"]["auroc"]["mean"] <= high
    assert rejection.at_threshold(rounds)["known"]["energy"]["answered"] == 0.95


def test_each_network_of_the_table_has_a_recipe_for_each_corpus():
    from benchmarks import baselines
    for corpus in baselines.CORPORA:
        for network in baselines.NETWORKS:
            recipe = baselines.recipe_of(corpus, network)
            assert recipe.train.epochs == read_recipe(baselines.RECIPE).train.epochs, "one protocol"


def test_a_row_of_the_table_is_trained_and_kept(demo, tmp_path, monkeypatch):
    from benchmarks import baselines
    monkeypatch.setitem(baselines.CORPORA, "deeply", [f"corpus={{root: '{demo}', layout: nonspeech7k}}"])
    monkeypatch.setattr(baselines, "PLACE", tmp_path / "baselines.json")
    tiny = ["clip.seconds=1.0", "train.epochs=1", "splits.folds=2", f"banks={tmp_path / 'banks'}", "augment.time_mask=2"]
    baselines.enter("deeply", "LSTM", baselines.train("deeply", "LSTM", tmp_path, tiny))
    baselines.enter("deeply", "LSTM", {"training_clips_per_second": 10.0})
    row = json.loads((tmp_path / "baselines.json").read_text())["rows"]["deeply"]["LSTM"]
    assert len(row["macro_f1"]["folds"]) == 2 and row["classes"] == 7
    assert row["training_seconds"] == row["steps"] * 32 * row["epochs"] / 10
