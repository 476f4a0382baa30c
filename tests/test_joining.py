"""Unlike networks that judge together: trained fold by fold in one recipe, joined into one file, and learnt from by a smaller one."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nonspeech7k.files import UserError
from nonspeech7k.recipe import Recipe, differences, read_recipe, recipe_yaml

SMALL = ["splits.folds=2", "clip.rate=16000", "clip.seconds=1.0", "train.epochs=2", "train.precision=fp32", "front_end.n_mels=32",
         "augment.frequency_mask=4", "augment.time_mask=8", "network={channels: [4, 8, 8], hidden: 16}"]
HEARING = "front_end: {kind: yamnet}, network: {kind: yamnet, weights: none}, train: {epochs: 1, trains: head, head: logistic}"
MEMBERS = f"members=[{{name: small}}, {{name: hearing, {HEARING}}}]"
MODELS = ("best_fold1", "best_fold2", "final_model")


pytestmark = pytest.mark.usefixtures("one_thread")


def opened(demo: Path, folder: Path, *changes: str, again: bool = False):
    from nonspeech7k.runs.folder import open_run
    return open_run("demo", folder, [f"corpus.root={demo}", f"banks={demo.parent / 'banks'}", *SMALL, *changes], again)


def finished(demo: Path, folder: Path, *changes: str, again: bool = False) -> Path:
    "The folder of a run of which all stages are done, in this process."
    from nonspeech7k.runs.stages import complete
    complete(opened(demo, folder, *changes, again=again))
    return folder


def trained(demo: Path, folder: Path, *changes: str, again: bool = False) -> Path:
    "The folder of a run that is trained and not judged."
    from nonspeech7k.runs.corpus import explore
    from nonspeech7k.runs.features import measure
    from nonspeech7k.runs.fits import train
    run = opened(demo, folder, *changes, again=again)
    for stage in (explore, measure, train): stage(run)
    return folder


@pytest.fixture(scope="module")
def demo(smaller_demo) -> Path: return smaller_demo


@pytest.fixture(scope="module")
def joined(demo, tmp_path_factory) -> Path:
    "A residual network beside YAMNet, which knows nothing, so that no weights are needed."
    return finished(demo, tmp_path_factory.mktemp("joined") / "run", MEMBERS)


def test_members_in_one_recipe_end_in_a_report(joined):
    metrics = json.loads((joined / "metrics.json").read_text())
    assert (joined / "report.html").stat().st_size > 10_000 and metrics["study"]["network"] == "residual + yamnet"
    assert list(json.loads((joined / "training.json").read_text())) == [
        f"{name}: {fit}" for name in ("small", "hearing") for fit in ("fold 1", "fold 2", "final")]
    assert {path.name for path in (joined / "models").iterdir()} == {f"{name}.safetensors" for name in MODELS}
    assert metrics["clips_per_second"]["training"] > 0


def test_what_is_judged_is_the_mean_of_what_the_members_say(joined, demo):
    from nonspeech7k.evaluation.calibration import temper
    from nonspeech7k.inference.classifier import load_classifier, read_waveforms
    table = pd.read_csv(joined / "predictions.csv")
    for number, name in (("1", "best_fold1"), ("2", "best_fold2"), ("0", "final_model")):
        asked = table[table["fold"] == int(number)]
        said = []
        for member in ("small", "hearing"):
            classifier = load_classifier(joined / "members" / member / "models" / f"{name}.safetensors")
            said.append(classifier.probabilities(read_waveforms(classifier, [demo / path for path in asked["path"]])))
        scaled = temper(np.log(np.mean(said, axis=0)) / asked["temperature"].to_numpy()[:, None], 1.0)
        assert asked[classifier.labels].to_numpy() == pytest.approx(scaled, abs=1e-5)


def test_one_file_is_all_that_is_needed(joined, demo, tmp_path):
    from nonspeech7k.inference.classifier import load_classifier, predict
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((joined / "models/final_model.safetensors").read_bytes())
    classifier, table = load_classifier(alone), pd.read_csv(joined / "predictions.csv").set_index("path")
    tested = table[table["split"] == "test"]
    for path, answer in zip(tested.index, predict(classifier, [demo / path for path in tested.index], place="start")):
        assert [answer["probabilities"][label] for label in classifier.labels] == pytest.approx(tested.loc[path, classifier.labels].tolist(), abs=1e-5)
    assert classifier.configuration["trained_on"]["fit"] == "final" and classifier.embed([demo / path for path in tested.index[:2]]).shape == (2, 16 + 2 * 2304)


def test_one_onnx_file_answers_the_same(joined, tmp_path):
    pytest.importorskip("onnxscript"), pytest.importorskip("onnxruntime")
    from nonspeech7k.inference.classifier import load_classifier
    from nonspeech7k.inference.portable import export_onnx
    assert export_onnx(load_classifier(joined / "models/final_model.safetensors"), tmp_path / "joined.onnx")["deviation"] < 1e-4


def test_a_run_that_was_stopped_between_members_goes_on(joined, demo, tmp_path, monkeypatch):
    from nonspeech7k.runs import joining
    train_member, files = joining._train_member, lambda: {path: path.stat().st_mtime_ns for path in (tmp_path / "run/members/small/models").iterdir()}
    def stopped(member, *rest):
        if member.recipe.name == "hearing": raise KeyboardInterrupt
        train_member(member, *rest)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(joining, "_train_member", stopped)
        finished(demo, tmp_path / "run", MEMBERS)
    before = files()
    assert len(before) == 3 and not (tmp_path / "run/training.json").exists()
    finished(demo, tmp_path / "run", MEMBERS)
    assert files() == before and (tmp_path / "run/predictions.csv").read_bytes() == (joined / "predictions.csv").read_bytes()


def test_a_classifier_that_is_gone_is_joined_anew(joined, demo):
    before = (joined / "models/best_fold1.safetensors").read_bytes(), (joined / "predictions.csv").read_bytes()
    (joined / "models/best_fold1.safetensors").unlink()
    finished(demo, joined, MEMBERS)
    assert ((joined / "models/best_fold1.safetensors").read_bytes(), (joined / "predictions.csv").read_bytes()) == before


def test_a_changed_member_begins_again_and_the_other_stands(joined, demo, tmp_path):
    folder = trained(demo, tmp_path / "run", MEMBERS)
    changed = MEMBERS.replace("{name: small}", "{name: small, train: {lr: 0.02}}")
    with pytest.raises(UserError, match=r"members\.small\.train\.lr: 0\.003 → 0\.02: stages 1 and 2 stand, stages 3 and 4 begin again"): opened(demo, folder, changed)
    stood = (folder / "members/hearing/models/final_model.safetensors").stat().st_mtime_ns
    trained(demo, folder, changed, again=True)
    assert (folder / "members/hearing/models/final_model.safetensors").stat().st_mtime_ns == stood
    histories = [json.loads((one / "training.json").read_text()) for one in (folder, joined)]
    assert [name for name in histories[0] if histories[0][name] != histories[1][name]] == ["small: fold 1", "small: fold 2", "small: final"]
    with pytest.raises(UserError, match=r"members\.small: a member → None"): opened(demo, folder)
    plain = trained(demo, tmp_path / "plain")
    with pytest.raises(UserError, match=r"members\.small: None → a member"): opened(demo, plain, MEMBERS)


def test_further_seeds_repeat_all_members(demo, tmp_path):
    folder = finished(demo, tmp_path / "run", MEMBERS, "further_seeds=[8]")
    assert json.loads((folder / "metrics.json").read_text())["seeds"]["seeds"] == [7, 8]
    assert (folder / "seeds/8/members/hearing/models/final_model.safetensors").exists()


def test_a_student_learns_from_an_ensemble(joined, demo, tmp_path):
    distil = f"train.distil={{teacher: '{joined}', weight: 1.0}}"
    student, alone = (trained(demo, tmp_path / name, *changes) for name, changes in (("student", [distil]), ("alone", [])))
    losses = [json.loads((folder / "training.json").read_text())["fold 1"][0]["train_loss"] for folder in (student, alone)]
    assert losses[0] != losses[1]
    with pytest.raises(UserError, match="other clips, test split and folds"): trained(demo, tmp_path / "others", distil, "seed=8")
    with pytest.raises(UserError, match="not trained yet"): trained(demo, tmp_path / "early", f"train.distil={{teacher: '{opened(demo, tmp_path / 'untrained', MEMBERS).folder}'}}")


@pytest.mark.parametrize(("change", "words"), [
    ("members=[{name: small}]", "members: must be 2 to 8"),
    ("members=[{name: a}, {name: A}]", "members: must be 2 to 8, whose names differ"),
    ("members=[{name: a}, {name: a}]", "members: two are named a"),
    ("members=[{name: a}, {network: {}}]", "members: number 2 has no name"),
    ("members=[{name: a}, {name: b, clip: {seconds: 2}}]", r"members\.b\.clip: unknown key; .*allowed: front_end, network, train, augment"),
    ("members=[{name: a}, {name: b, train: {lr: -1}}]", r"members\.b\.train\.lr: "),
    ("members=[{name: a}, {name: b, network: {kind: resnet}}]", r"members\.b\.network\.kind: .resnet. is not known"),
    ("members=[{name: a}, {name: b, network: {kind: yamnet}}]", r"members\.b\.network\.kind: yamnet does not fit"),
    ("members=[{name: a}, {name: b, front_end: {kind: yamnet}, network: {kind: yamnet}}]", "clip.rate: must be 16000"),
    ("members=[{name: a}, {name: ../b}]", r"members\.\.\./b"),
    ("members=7", "members: "), ("members=[7, 8]", "members: number 1 has no name"), ("members={a: 1, b: {}}", r"members\.a: ")])
def test_members_that_cannot_be_are_refused_by_their_key(change, words):
    with pytest.raises(UserError, match=words): read_recipe("demo", ["clip.rate=32000", change])


def test_a_member_takes_from_the_recipe_what_it_does_not_say():
    recipe = read_recipe("demo", ["clip.rate=16000", MEMBERS, "train.lr=0.5", "members.small.train.epochs=3"])
    from nonspeech7k.members import member_recipes
    small, hearing = member_recipes(recipe).values()
    assert (small.train.lr, small.train.epochs, hearing.train.lr, hearing.train.head) == (0.5, 3, 0.5, "logistic")
    import yaml
    assert not differences(Recipe(**yaml.safe_load(recipe_yaml(recipe))), recipe)


def test_a_recipe_without_members_says_nothing_of_them():
    from nonspeech7k.inference.classifier import describe
    from nonspeech7k.runs.stamps import settings_of
    recipe = read_recipe("demo")
    assert "members" not in recipe_yaml(recipe) and "members" not in settings_of(recipe, "3_training")
    assert "members" not in describe(["a", "b"], recipe.model_dump())["recipe"]


def test_a_file_tells_no_place_on_its_owners_disk():
    from nonspeech7k.inference.classifier import describe
    recipe = read_recipe("demo", ["clip.rate=16000", MEMBERS.replace("weights: none", "weights: /somewhere/somebody/yamnet.safetensors")])
    assert "somebody" not in json.dumps(describe(["a", "b"], recipe.model_dump()))


@pytest.mark.parametrize("name", ["joined", "student"])
def test_the_recipes_that_join_and_learn_are_whole(name):
    recipe = read_recipe(name)
    assert set(recipe.members) == ({"small", "hearing"} if name == "joined" else set()) and bool(recipe.train.distil) == (name == "student")
