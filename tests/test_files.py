"""Classifier files from strangers: what loading touches, and what a file cannot do. One sentence each in `0_ground/60_configuration`, `3_models/85_weights` and `6_inference/10_classifier`; here what needs other processes, pipes, links and optional libraries."""
import json
import os
import time
from pathlib import Path

import pytest
import torch
from doors import foreign, opened
from safetensors.torch import load_file, save

NETWORKS = {
    "residual": {"channels": [4, 8, 8], "hidden": 16}, "image_cnn": {"channels": [4, 8], "hidden": 16},
    "segments": {"filters": [4, 8], "hidden": 16}, "lstm": {"hidden": 8, "layers": 2},
    "attention": {"channels": [4, 8], "hidden": 8, "heads": 2}, "waveform": {"channels": [4, 8], "hidden": 8},
    "timm": {"model": "resnet10t"}, "transformer": {"hidden": 16, "layers": 2, "heads": 2},
    "encoder": {"hidden": 16, "layers": 2, "heads": 2, "config": {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}}}
LIBRARIES = ("torch", "pandas", "timm", "transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer",
             "transformers.models.wav2vec2.modeling_wav2vec2")
FRONT_ENDS = {"waveform": {"kind": "waveform"}, "encoder": {"kind": "waveform", "normalise": "clip"}, "transformer": {"kind": "transformer", "n_mels": 32, "frames": 64}}


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
            "code": ask("code", "transformer", config={"auto_map": {"AutoModel": "somebody/code"}}),
            "foreign": ask("foreign", "encoder", config={"auto_map": {"AutoModel": "somebody/code"}}), "moments": ask("moments", "encoder", config={"conv_stride": [1] * 7}),
            "elsewhere": ask("elsewhere", "residual", weights="/etc/passwd")}


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


def refusal(place) -> str:
    "What is said of a file, at once and in one bounded sentence."
    from nonspeech7k.files import UserError
    from nonspeech7k.inference.classifier import load_classifier
    started = time.monotonic()
    with pytest.raises(UserError) as raised: load_classifier(place)
    assert time.monotonic() - started < 2 and "\n" not in str(raised.value) and len(str(raised.value)) < 1500
    return str(raised.value)


def test_what_is_no_file_of_arrays(tmp_path, files):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "empty").touch()
    with open(tmp_path / "zeros", "wb") as file: file.truncate(100 * 2**20)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "torch.pt")
    (tmp_path / "cut").write_bytes(files["residual"].read_bytes()[:-100])
    said = {"pipe": "a named pipe", "endless": "a device", "loop": "cannot be read", "empty": "empty", "": "a folder",
            "zeros": "not a classifier", "torch.pt": "a ZIP archive", "cut": "damaged", "missing": "no such file"}
    for name, words in said.items(): assert words in refusal(tmp_path / name), name
    assert "\x1b" not in refusal(tmp_path / "\x1b[2J")


@pytest.mark.parametrize("section", [
    {"front_end": {"kind": "log_mel", "n_mels": 10**9}}, {"front_end": {"kind": "log_mel", "n_fft": 256, "n_mels": 64, "hop_length": -10**6}},
    {"clip": {"rate": 1e-300, "seconds": 1.0}}, {"clip": {"rate": 16_000, "seconds": 600.0}, "network": {"kind": "lstm", "layers": 8}},
    {"front_end": {"kind": "log_mel", "n_fft": 65_536, "n_mels": 1024}, "clip": {"rate": 96_000, "seconds": 1.0}},
    {"network": {"kind": "residual", "channels": [8192] * 6, "hidden": 8192}}, {"network": {"kind": "residual", "channels": [1, 1], "hidden": 8192}},
    {"network": {"kind": "lstm", "layers": 1_000_000}}, {"network": {"kind": "timm", "model": "eva_giant_patch14_224"}},
    {"labels": ["cough"] * 7}, {"labels": ["cough\nlaugh,1"]}, {"labels": [f"{number:012}" for number in range(200_000)]},
    {"calibration": {"temperature": 0}}, {"calibration": {"temperature": float("nan")}}], ids=lambda section: ", ".join(section))
def test_a_small_file_that_asks_for_much(tmp_path, section):
    said = refusal(spoilt(tmp_path / "bomb.safetensors", configuration("residual") | section))
    assert said.startswith(str(tmp_path / "bomb.safetensors"))


def test_answers_that_are_no_numbers(tmp_path, files):
    from nonspeech7k.files import UserError
    from nonspeech7k.inference.classifier import load_classifier
    arrays, said = load_file(files["residual"]), configuration("residual")
    assert "NaN" in refusal(spoilt(tmp_path / "nan", said, arrays | {"front_end.mean": torch.tensor(float("nan"))}))
    huge = spoilt(tmp_path / "huge", said, arrays | {"front_end.deviation": torch.tensor(0.0)})
    with pytest.raises(UserError, match="no number"): load_classifier(huge).probabilities(torch.zeros(1, 16_000))


def test_the_same_answers_as_before(files):
    "Networks are filled without being drawn at random first; buffers that no file holds are there all the same."
    from nonspeech7k.inference.classifier import build_classifier, load_classifier
    waveforms = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    for kind in NETWORKS:
        plain = build_classifier(configuration(kind))
        plain.load_state_dict(load_file(files[kind]))
        assert (load_classifier(files[kind]).probabilities(waveforms) == plain.probabilities(waveforms)).all(), kind
