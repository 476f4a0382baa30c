"""What needs a cluster: two Ray nodes on this machine, a worker and then a node killed in mid-job, and runs side by side."""
import json
import os
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from conftest import SMALL

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'nonspeech7k[ray]'")
from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
# a dead node is noticed after about two seconds and not after half a minute
IMPATIENT = {"health_check_initial_delay_ms": 2000, "health_check_period_ms": 500, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}


def of_ray() -> list[psutil.Process]:
    "Ray's processes among those that these tests started."
    found = []
    for process in psutil.Process().children(recursive=True):
        try: named = " ".join(process.cmdline())
        except psutil.Error: continue
        if "raylet" in named or "gcs_server" in named or "ray::" in named: found.append(process)
    return found


@pytest.fixture(scope="module")
def cluster():
    "Two nodes of one CPU each, and the second of them; at the end no process of theirs is left."
    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False, "_system_config": IMPATIENT})
    try: yield made, made.add_node(**NODE)
    finally:
        ray.shutdown()
        made.shutdown()
        _, left = psutil.wait_procs(of_ray(), timeout=10)
        for process in left: process.kill()
        assert not left, f"Ray left {left}"


@pytest.fixture(scope="module")
def corpus(demo, tmp_path_factory) -> tuple[Path, Path, Path]:
    "A small classifier, a manifest of the demo's clips with one that is not there, and the folder that its paths are relative to."
    import torch

    from nonspeech7k.inference.classifier import build_classifier, describe, save_classifier
    from nonspeech7k.recipe import read_recipe
    folder = tmp_path_factory.mktemp("job")
    torch.manual_seed(0)
    model = build_classifier(describe(["cough", "laugh", "yawn"], read_recipe("demo").model_dump()))
    clips = sorted(path.relative_to(demo).as_posix() for path in demo.rglob("*.wav"))
    pd.DataFrame({"path": [*clips[:50], "gone.wav", *clips[50:]]}).to_csv(folder / "clips.csv", index=False)
    return save_classifier(model, folder / "model.safetensors"), folder / "clips.csv", demo


def parts_done(out: Path) -> int: return len(list((out / "tags").glob("*.parquet")))


def when(out: Path, parts: int, act) -> threading.Thread:
    "Act in another thread as soon as so many parts are done."
    def wait():
        while parts_done(out) < parts: time.sleep(.01)
        act()
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.fixture(autouse=True)
def quiet(monkeypatch): monkeypatch.setenv("NONSPEECH7K_PROGRESS", "off")


# The tests share the cluster, and the last one breaks it.

def test_worker_that_cannot_write_ends_in_a_sentence(cluster, corpus, tmp_path):
    from nonspeech7k.files import UserError
    from nonspeech7k.inference.bulk import tag
    from nonspeech7k.inference.jobs import open_job
    model, manifest, root = corpus
    job = open_job(model, manifest, tmp_path / "labels", root=root)
    job.file("tags", 0).parent.write_text("a file where a folder belongs")
    with pytest.raises(UserError, match="tags: a link or a file where a folder of the job belongs"): tag(model, manifest, job.folder, root=root, ray=cluster[0].address)


def test_runs_side_by_side_go_on_and_are_the_runs_themselves(cluster, demo, tmp_path):
    from nonspeech7k.files import write_text
    from nonspeech7k.runs.corpus import explore
    from nonspeech7k.runs.execution import notebook_of
    from nonspeech7k.runs.features import measure
    from nonspeech7k.runs.fits import train
    from nonspeech7k.runs.folder import STAGES, open_run
    from nonspeech7k.runs.sweep import read_over, sweep
    changes = [*SMALL[1::2], "train.epochs=1", f"corpus.root={demo}", f"banks={tmp_path / 'banks'}"]
    over = read_over(["seed=1,2", "train.lr=1e-3,-1"])
    torch.set_num_threads(1)  # as in the processes to come
    for seed, place in ((1, "sweep"), (2, "sweep"), (1, "alone")):  # as if stopped before the last stage, which saves kernels
        run = open_run("demo", tmp_path / place / f"seed={seed},train.lr=1e-3", [*changes, f"seed={seed}", "train.lr=1e-3"])
        explore(run), measure(run)
        if (seed, place) != (1, "sweep"): train(run)  # this one's folds are trained side by side
        for stage in STAGES[:3]: write_text(notebook_of(run, stage), "stands for an executed notebook")
    table = sweep("demo", over, tmp_path / "sweep", changes, workers=2, ray=cluster[0].address, folds_apart=True)
    apart, alone = (tmp_path / place / "seed=1,train.lr=1e-3" for place in ("sweep", "alone"))
    assert (apart / "training.json").read_text() == (alone / "training.json").read_text(), "folds trained apart are the same folds"
    assert not list((apart / "models").glob("*.json"))
    assert table["macro_f1"].notna().tolist() == [True, True, False, False] and all("train.lr" in text for text in table["problem"][2:])
    for run, score in zip(table["run"][:2], table["macro_f1"]):
        assert json.loads((tmp_path / "sweep" / run / "metrics.json").read_text())["cv"]["macro_f1"]["mean"] == score
        assert (tmp_path / "sweep" / run / "report.html").exists()
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == sorted([*table["run"][:2], "sweep.csv"])
    again = sweep("demo", over, tmp_path / "sweep", changes)
    assert again.equals(table), "finished runs are not repeated, with or without Ray"


def test_killed_worker_and_killed_node_lose_and_double_no_clip(cluster, corpus, tmp_path):
    from nonspeech7k.inference.bulk import read_bad, read_tags, tag
    (cluster, second), (model, manifest, root), seen = cluster, corpus, {}
    out = tmp_path / "labels"

    def kill_worker():
        worker = next(process for process in of_ray() if "Tagger" in " ".join(process.cmdline()))
        worker.kill()
        seen["worker"] = parts_done(out)
        when(out, parts_done(out) + 5, kill_node)

    def kill_node():
        cluster.remove_node(second, allow_graceful=False)
        seen["node"] = parts_done(out)

    when(out, 3, kill_worker)
    result = tag(model, manifest, out, root=root, part=3, ray=cluster.address)
    assert seen["worker"] < seen["node"] < 38, f"killed too late to mean anything: {seen} of 38 parts"
    assert (result["clips"], result["labelled"], result["bad"]) == (113, 112, 1)
    tags, bad = read_tags(out), read_bad(out)
    assert tags["path"].is_unique and sorted([*tags["path"], *bad["path"]]) == sorted(pd.read_csv(manifest)["path"])
    assert bad.values.tolist() == [["gone.wav", "no such file"]]
    tag(model, manifest, tmp_path / "here", root=root, part=3)
    assert tags.round(5).equals(read_tags(tmp_path / "here").round(5)), "a cluster answers as one process does"
