"""Which part of a recording is heard, what is said where nothing can be heard, and how a file longer than a clip is answered."""
import json
import struct
import time

import numpy as np
import pytest
import soundfile
import yaml

from nonspeech7k.data.audit import audit
from nonspeech7k.data.bank import VERSION, bank_key, open_bank
from nonspeech7k.data.choice import Choice
from nonspeech7k.data.layouts import read_corpus
from nonspeech7k.files import UserError
from nonspeech7k.inference.classifier import build_classifier, describe, load_classifier, predict, save_classifier
from nonspeech7k.inference.events import events
from nonspeech7k.recipe import Recipe, differences, read_recipe, recipe_yaml
from nonspeech7k.training.devices import seed_weights

RATE, LABELS = 8000, ["cough", "laugh", "yawn"]


def recipe_of(**clip) -> Recipe:
    "A small recipe for clips of one second."
    return Recipe(name="small", seed=3, corpus={"root": "."}, clip={"rate": RATE, "seconds": 1.0} | clip,
                  front_end={"n_fft": 256, "hop_length": 128, "n_mels": 32}, augment={"frequency_mask": 0, "time_mask": 0},
                  network={"channels": [4, 8, 8], "hidden": 16})


def classifier_of(**clip):
    with seed_weights(0): return build_classifier(describe(LABELS, recipe_of(**clip).model_dump()))


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE))


@pytest.fixture
def sounds(tmp_path):
    def write(name, samples, rate=RATE):
        soundfile.write(tmp_path / name, samples, rate, subtype="FLOAT")
        return tmp_path / name
    return write


def shares(answer: dict) -> list[float]:
    return list(answer["probabilities"].values())


# the recipe

def test_the_keys_are_called_what_the_file_calls_them():
    recipe = read_recipe("demo", ["clip.from=loudest", "clip.channel=left"])
    assert yaml.safe_load(recipe_yaml(recipe))["clip"] == {"rate": recipe.clip.rate, "seconds": recipe.clip.seconds, "channel": "left", "from": "loudest"}
    assert differences(read_recipe("demo"), recipe) == ["clip.channel: mix → left", "clip.from: start → loudest"]
    assert Recipe(**yaml.safe_load(recipe_yaml(recipe))) == recipe
    with pytest.raises(UserError, match="clip.from: input should be 'start', 'centre', 'loudest' or 'random'"): read_recipe("demo", ["clip.from=end"])
    with pytest.raises(UserError, match="clip.place: unknown key; .*from"): read_recipe("demo", ["clip.place=start"])


def test_classifiers_of_earlier_versions_mean_the_usual_choice(tmp_path):
    classifier = classifier_of()
    assert classifier.configuration["clip"]["from"] == "start" and classifier.choice == Choice(seed=3)
    for key in ("channel", "from"): del classifier.configuration["clip"][key]
    again = load_classifier(save_classifier(classifier, tmp_path / "old.safetensors"))
    assert again.choice == Choice(seed=3) and load_classifier(
        save_classifier(classifier_of(channel="right", **{"from": "random"}), tmp_path / "new.safetensors")).choice == Choice("right", "random", 3)


# the bank

def test_the_usual_choice_keeps_its_bank():
    assert VERSION == 2 and bank_key(["ab"], 16_000, 4.0) == bank_key(["ab"], 16_000, 4.0, Choice(seed=9))
    assert bank_key(["ab"], 16_000, 4.0) != bank_key(["ab"], 16_000, 4.0, Choice(place="loudest"))


def test_banks_hold_what_was_chosen(sounds, tmp_path):
    long = np.concatenate([0.01 * noise(3), noise(1), 0.01 * noise(2)])
    file = sounds("long.wav", np.stack([long, 0 * long], 1))
    heard = {place: open_bank([file], RATE, 1.0, tmp_path / "banks", choice=Choice("left", place))[0].waveform(0)
             for place in ("start", "centre", "loudest", "random")}
    for place, start in (("start", 0), ("centre", 2.5), ("loudest", 3)):
        assert np.allclose(heard[place], long[round(start * RATE):][:RATE], atol=2e-4), place
    assert np.array_equal(heard["random"], open_bank([file], RATE, 1.0, tmp_path / "other", choice=Choice("left", "random"))[0].waveform(0))
    short = sounds("short.wav", noise(0.7))
    usual = open_bank([short], RATE, 1.0, tmp_path / "banks")[0].waveform(0)
    for place in heard: assert np.array_equal(open_bank([short], RATE, 1.0, tmp_path / "banks", choice=Choice("right", place))[0].waveform(0), usual)


# predict

def test_files_that_fit_are_answered_as_their_clip(sounds):
    classifier, files = classifier_of(), [sounds(f"{seconds}.wav", noise(seconds)) for seconds in (0.4, 0.9, 1.0)]
    for file, answer in zip(files, predict(classifier, files)):
        alone = next(predict(classifier, [file], place="start"))
        assert np.allclose(shares(answer), shares(alone), atol=1e-6) and answer["judged_seconds"] == answer["seconds"]
        assert list(answer) == ["path", "label", "probabilities", "seconds", "judged_seconds"]


def test_longer_files_are_the_mean_of_their_windows(sounds):
    long, classifier = noise(4.3), classifier_of()
    starts = [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.3]
    windows = [sounds(f"{start}.wav", long[round(start * RATE):][:RATE]) for start in starts]
    whole, = predict(classifier, [sounds("long.wav", long)])
    assert np.allclose(shares(whole), np.mean([shares(answer) for answer in predict(classifier, windows)], axis=0), atol=1e-5)
    assert whole["seconds"] == whole["judged_seconds"] == 4.3
    first, = predict(classifier, [sounds("long.wav", long)], place="start")
    assert np.allclose(shares(first), shares(next(predict(classifier, windows[:1]))), atol=1e-6) and first["judged_seconds"] == 1.0


def test_what_is_filled_up_with_zeros_is_judged_by_what_sounds(sounds):
    classifier = classifier_of()
    alone, padded = predict(classifier, [sounds("alone.wav", noise(1)), sounds("padded.wav", np.concatenate([noise(1), np.zeros(round(1.6 * RATE))]))])
    half, = predict(classifier, [sounds("half.wav", np.concatenate([noise(1)[RATE // 2:], np.zeros(RATE // 2)]))])
    assert np.allclose(shares(padded), (np.array(shares(alone)) + shares(half)) / 2, atol=1e-5) and "warning" not in padded


def test_a_long_file_streams_to_the_same_answer(sounds):
    classifier, long = classifier_of(), noise(40)
    streamed, = predict(classifier, [sounds("long.wav", long)])
    parts = [sounds(f"{number}.wav", long[number * RATE // 2:][:RATE]) for number in range(79)]
    assert np.allclose(shares(streamed), np.mean([shares(answer) for answer in predict(classifier, parts)], axis=0), atol=1e-5)


def test_hours_of_zeros_cost_little_and_say_nothing(sounds, tmp_path, monkeypatch):
    monkeypatch.setenv("NONSPEECH7K_PROGRESS", "off")
    classifier, hours, said = classifier_of(), 5, []
    whole = np.round(32_767 * np.concatenate([noise(1), np.zeros(RATE // 2), noise(1)])).astype("<i2")
    for rate in (RATE, 3 * RATE // 2):
        wav = sounds("short.wav", noise(0.1), rate).with_name("forgotten.wav")
        soundfile.write(wav, whole[:RATE], rate, subtype="PCM_16")
        with open(wav, "r+b") as file:
            size = 2 * rate * 3600 * hours
            file.seek(40); file.write(struct.pack("<I", size)); file.truncate(44 + size)
            file.seek(4); file.write(struct.pack("<I", size + 36))
        begin = time.process_time()
        answer, = predict(classifier, [wav], tell=said.append)
        assert time.process_time() - begin < 20 and answer["seconds"] == answer["judged_seconds"] == 3600 * hours and "warning" not in answer
        alone, = predict(classifier, [sounds("alone.wav", np.concatenate([whole[:RATE] / 2**15, np.zeros(4 * rate)]), rate)])
        assert np.allclose(shares(answer), shares(alone), atol=1e-5)
    assert len(said) == 2 and all("forgotten.wav: 5.0 h" in sentence and "--from start" in sentence and "events" in sentence for sentence in said)


def test_what_cancels_for_a_while_is_said(sounds):
    one, other = noise(40), noise(40)
    other[:] = one
    other[30 * RATE:] *= -1
    file, said = sounds("turned.wav", np.stack([one, other], 1)), []
    answer, = predict(classifier_of(), [file])
    assert answer["warning"] == "cancels" and "warning" not in next(predict(classifier_of(channel="left"), [file]))
    list(events(classifier_of(), file, tell=said.append)), list(events(classifier_of(channel="left"), file, tell=said.append))
    list(events(classifier_of(), sounds("alike.wav", np.stack([one, one], 1)), tell=said.append))
    sentence, = said
    assert "turned.wav" in sentence and "channels cancel" in sentence and "clip.channel" in sentence


def test_a_classifier_hears_its_own_channel(sounds):
    left, right = noise(2.2, 1), 0.5 * noise(2.2, 2)
    file = sounds("both.wav", np.stack([left, right], 1))
    for channel, samples in (("left", left), ("right", right), ("loudest", left), ("mix", (left + right) / 2)):
        answers = predict(classifier_of(channel=channel), [file, sounds("one.wav", samples)])
        assert np.allclose(*map(shares, answers), atol=1e-5), channel


NOTHING = {"zeros": (np.zeros(RATE), "silent"), "all channels zero": (np.zeros((RATE, 2)), "silent"), "offset": (np.full(RATE, 0.3), "silent"),
           "faint": (0.001 * noise(1), "silent"), "one sample": (noise(1)[:1], "short"), "a few samples": (noise(0.05), "short"),
           "two zeros": (np.zeros(2), "short"), "inverted": (np.stack([noise(1), -noise(1)], 1), "cancels"),
           "nearly": (np.stack([noise(1), -0.98 * noise(1)], 1), "cancels"), "long inverted": (np.stack([noise(14), -noise(14)], 1), "cancels"),
           "long zeros": (np.zeros(14 * RATE), "silent"), "one channel": (np.stack([noise(1), 0 * noise(1)], 1), None), "fit": (noise(0.1), None)}


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("rate", [RATE, 11_025])
def test_answers_about_nothing_say_so(sounds, name, rate):
    samples, word = NOTHING[name]
    answer, = predict(classifier_of(), [sounds("sound.wav", samples, rate)])
    if not (name == "fit" and rate != RATE): assert answer.get("warning") == word
    assert answer["label"] in LABELS and {"path", "probabilities", "seconds", "judged_seconds"} < set(answer) and json.dumps(answer)
    if word == "cancels":
        for channel in ("left", "loudest"): assert "warning" not in next(predict(classifier_of(channel=channel), [sounds("sound.wav", samples, rate)]))


# the audit

@pytest.fixture
def corpus(tmp_path):
    for label in ("cough", "yawn"):
        (tmp_path / "c" / label).mkdir(parents=True)
        for number in range(10): soundfile.write(tmp_path / "c" / label / f"{number}.wav", noise(5, number + 10 * (label == "yawn")), RATE)
    return tmp_path / "c"


def test_what_is_not_heard_is_said(corpus):
    found = audit(read_corpus(corpus), clip={"seconds": 4.0})
    assert found["not_heard"] | {"sentence": ""} == {"clips": 20, "seconds": 20.0, "clip_seconds": 4.0, "from": "start", "sentence": ""}
    said, = (warning for warning in found["warnings"] if "not heard" in warning)
    assert "20 of 20 clips" in said and "20.0 of 100.0 s" in said and "clip.seconds" in said and "clip.from" in said
    for clip in ({"seconds": 5.0}, None): assert not any("not heard" in warning for warning in audit(read_corpus(corpus), clip=clip)["warnings"])


def test_faults_of_the_mix_are_found(corpus):
    for name, samples in (("inverted", np.stack([noise(5), -noise(5)], 1)), ("nearly", np.stack([noise(5, 7), -0.98 * noise(5, 7)], 1)),
                          ("zeros", np.zeros(5 * RATE)), ("offset", np.full(5 * RATE, 0.2)), ("one", noise(1)[:1])):
        soundfile.write(corpus / "cough" / f"{name}.wav", samples, RATE)
    found = audit(read_corpus(corpus))
    assert found["cancels"] == ["cough/inverted.wav", "cough/nearly.wav"] and found["short"] == ["cough/one.wav"]
    assert found["silent"] == ["cough/offset.wav", "cough/zeros.wav"] and not found["narrow"]
    assert any("channels cancel" in warning and "clip.channel: loudest" in warning for warning in found["warnings"])
    assert not any("channels cancel" in warning for warning in audit(read_corpus(corpus), clip={"seconds": 5.0, "channel": "left"})["warnings"])
