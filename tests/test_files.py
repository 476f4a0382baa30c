"""Classifier files from strangers: what loading touches, and what a file cannot do. One sentence each in `6_inference/03_configuration`, `06_weights` and `10_classifier`; here what needs other processes, pipes, links and optional libraries."""
import json
import os
import time
from pathlib import Path

import pytest
import torch
from doors import foreign, opened
from safetensors.torch import save

NETWORKS = {
    "residual": {"channels": [4, 8, 8], "hidden": 16}, "image_cnn": {"channels": [4, 8], "hidden": 16},
    "segments": {"filters": [4, 8], "hidden": 16}, "lstm": {"hidden": 8, "layers": 2},
    "attention": {"channels": [4, 8], "hidden": 8, "heads": 2}, "waveform": {"channels": [4, 8], "hidden": 8},
    "timm": {"model": "resnet10t"}, "transformer": {"hidden": 16, "layers": 2, "heads": 2}}
LIBRARIES = ("torch", "pandas", "timm", "transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer")
FRONT_ENDS = {"waveform": {"kind": "waveform"}, "transformer": {"kind": "transformer", "n_mels": 32, "frames": 64}}


def configuration(kind:str, **changes) -> dict:
    "What a small classifier says of itself."
    front_end = FRONT_ENDS.get(kind, {"kind": "log_mel", "n_fft": 256, "hop_length": 128, "n_mels": 64})
    return {"format": 2, "labels": ["cough", "laugh", "yawn"], "labels_per_clip": "one", "clip": {"rate": 16_000, "seconds": 1.0},
            "front_end": front_end, "network": {"kind": kind, **NETWORKS[kind]}, "calibration": {"temperature": 1.0}, **changes}


def built(folder:Path, kind:str) -> Path:
    "The file of a small classifier."
    from nonspeech7k.inference.classifier import build_classifier, save_classifier
    return save_classifier(build_classifier(configuration(kind)), folder / f"{kind}.safetensors")


def spoilt(place:Path, said:dict, arrays:dict|None=None) -> Path:
    "A file with this description and these arrays."
    place.write_bytes(save(arrays or {"network.weight": torch.zeros(3)}, {"nonspeech7k": json.dumps(said)}))
    return place


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    "A small classifier of each kind, by kind, and an ensemble."
    from nonspeech7k.inference.classifier import ensemble, load_classifier, save_classifier
    folder = tmp_path_factory.mktemp("files")
    found = {kind: built(folder, kind) for kind in NETWORKS}
    both = ensemble([load_classifier(found[kind]) for kind in ("residual", "lstm")])
    return found | {"ensemble": save_classifier(both, folder / "ensemble.safetensors")}


def attacks(folder:Path) -> dict[str, Path]:
    "Files that ask for what a classifier may not ask for."
    ask = lambda name, kind, **section: spoilt(folder / f"{name}.safetensors", configuration(kind, network={"kind": kind, **section}))
    return {"hub": ask("hub", "timm", model="hf-hub:timm/resnet18.a1_in1k"), "local": ask("local", "timm", model="local-dir:/etc"),
            "weights": ask("weights", "timm", model="resnet10t", weights="hub"),
            "place": ask("place", "transformer", weights="/etc"), "name": ask("name", "transformer", weights="MIT/ast-finetuned"),
            "kernel": ask("kernel", "transformer", config={"attn_implementation": "somebody/kernel"}),
            "code": ask("code", "transformer", config={"auto_map": {"AutoModel": "somebody/code"}})}


def load_all(places:list[str]) -> list[str]:
    "What comes of each file: the class of its network, or the sentence."
    from nonspeech7k.files import UserError
    from nonspeech7k.inference.classifier import load_classifier
    answers = []
    for place in places:
        try: answers.append(type(load_classifier(place)).__name__)
        except UserError as error: answers.append(str(error))
    return answers


def test_loading_touches_only_the_file(files, tmp_path):
    bad = attacks(tmp_path)
    places = [*files.values(), *bad.values()]
    home = tmp_path / "home"
    answers, events = opened("test_files:load_all", [str(place) for place in places], before=LIBRARIES,
                             HOME=str(home), XDG_CACHE_HOME=str(home), HF_HOME=str(home))
    assert answers[:len(files)] == ["Classifier"] * (len(files) - 1) + ["Ensemble"]
    for place, answer in zip(bad.values(), answers[len(files):]): assert answer.startswith(f"{place}: network"), answer
    assert [what for event, what in events if event == "open" and what in map(str, places)], "the hook sees the files"
    assert foreign(events, own=places) == []
