"""The study of leaking folds: who has a partner, and the intervals of the differences, computed by hand."""
import numpy as np
import pandas as pd
import pytest

from benchmarks import leak


def test_partners_are_those_of_the_same_split():
    manifest = pd.DataFrame([("cough", "p", "train"), ("cough", "p", "train"), ("laugh", "p", "train"),
                             ("laugh", "q", "train"), ("laugh", "r", "test")], columns=["label", "group", "split"])
    assert leak.partners(manifest).tolist() == ["same class", "same class", "other classes", "none", "none"]


def test_interval_over_seeds_is_students():
    found = leak.interval_of_seeds([0.0, 0.1, 0.2])
    half = 4.302653 * 0.1 / np.sqrt(3)  # t with two degrees of freedom, deviation 0.1
    assert found["mean"] == pytest.approx(0.1) and found["seeds"] == 3
    assert found["interval"] == pytest.approx([0.1 - half, 0.1 + half], abs=1e-6)


def test_interval_over_speakers_draws_speakers():
    right = pd.DataFrame({"plain": [True, True, True, False], "grouped": [False, True, True, False],
                          "clip": [0, 1, 2, 3], "group": ["p", "p", "q", "q"]})
    found = leak.interval_of_speakers(right)
    assert found["mean"] == 0.25 and (found["clips"], found["speakers"]) == (4, 2)
    assert found["interval"] == [0.0, 0.5], "only q, only p"


def test_synthetic_recordings_give_as_many_clips_as_asked(monkeypatch):
    monkeypatch.setattr(leak, "A_CLASS", 6)
    monkeypatch.setattr(leak, "NEW", 1)
    sounds = leak.synthetic(3, seed=0)
    train = sounds.manifest[sounds.manifest["split"] == "train"]
    assert train.groupby("group").size().unique().tolist() == [3] and train["group"].nunique() == 2 * 7
    assert len(sounds.clips) == 7 * 6 + 7 and sounds.clips.waveforms(leak.torch.arange(3)).abs().max() <= 1
