"""The doors of the program: for each kind of file that comes from outside, good ones to begin with, a way to spoil them, and what a user does with the result.

A door's `attempt` may end in any answer or in one `UserError`. Everything else is an escape. Where an answer can be told to be wrong, `attempt` returns a sentence about it.
"""
import io
import json
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mutations import BYTES, TEXT, as_json, chosen, spoiled, spoiled_values

Files = dict[str, bytes] # path below the case's folder → content
RATE = 8000 # Hz of all sounds here


@dataclass(frozen=True)
class Door:
    "One kind of file that comes from outside."
    name: str # as the table says it
    prepare: Callable[[Path], object] # once for each process: what all cases need, in a folder of its own
    spoil: Callable[[np.random.Generator, object], Files] # a case, from what was prepared
    attempt: Callable[[Path, object], str | None] # what a user does with the case's folder; a sentence about a wrong answer
    works: bool = False # it may train and draw again, which takes its time, asks git for the revision, and fills the caches of libraries
    seldom: int = 1 # with the tests, one in so many cases


def burst(seconds: float, seed: int = 0) -> np.ndarray:
    "A sound that never falls silent for long, (samples,)."
    t = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(t))
    return np.clip(0.5 * np.sin(2 * np.pi * (300 + 200 * t) * t) * (0.4 + 0.6 * np.sin(4 * np.pi * t)**2) + 0.15 * noise, -0.95, 0.95)


def encoded(kind: str, subtype: str | None = None, seconds: float = 0.4, seed: int = 0, channels: int = 1) -> bytes:
    "A sound as the bytes of a file."
    import soundfile
    file, sound = io.BytesIO(), burst(seconds, seed)
    soundfile.write(file, np.stack([sound] * channels, 1), RATE, format=kind, subtype=subtype)
    return file.getvalue()


# Sound

KINDS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", None), "ogg": ("OGG", None), "opus": ("OGG", "OPUS"), "mp3": ("MP3", None), "aiff": ("AIFF", None)}
RARER = {"w64": ("W64", None), "rf64": ("RF64", None), "caf": ("CAF", None), "au": ("AU", None), "gsm.wav": ("WAV", "GSM610"), "adpcm.wav": ("WAV", "MS_ADPCM"), "float.wav": ("WAV", "FLOAT"),
         "24.wav": ("WAV", "PCM_24")}


def good_sounds(folder: Path) -> dict[str, list[bytes]]:
    "Sounds by suffix, more of the usual kinds than of the rarer ones."
    usual = {suffix: [encoded(*kind, seconds, seed, channels) for seed, (seconds, channels) in enumerate(((0.4, 1), (0.15, 1), (0.3, 2)))] for suffix, kind in KINDS.items()}
    return usual | {suffix: [encoded(*kind)] for suffix, kind in RARER.items()}


def spoil_sound(rng: np.random.Generator, sounds: dict[str, list[bytes]]) -> Files:
    suffix = chosen(rng, [*KINDS, *KINDS, *KINDS, *RARER])
    return {f"sound.{suffix}": spoiled(rng, chosen(rng, sounds[suffix]), sounds[suffix], BYTES, most=3)}


def second_opinion(path: Path) -> tuple[int, int, int] | None:
    "Samples, rate in Hz and the longest frame as FFmpeg decodes a file; None where it finds anything to complain about."
    import av
    try:
        with av.open(str(path), options={"err_detect": "explode"}) as container:
            stream, samples, longest = container.streams.audio[0], 0, 0
            for frame in container.decode(stream):
                samples, longest = samples + frame.samples, max(longest, frame.samples)
                if samples > 10**8: return None
            return samples, stream.rate, longest
    except (av.error.FFmpegError, IndexError, ValueError, OverflowError): return None


def attempt_sound(folder: Path, sounds) -> str | None:
    from nonspeech7k.data.decoding import read_clip, read_sixteen_bits, read_sound
    path = next(iter(folder.iterdir()))
    samples, rate, seconds = read_sound(path)
    first, _, same = read_sixteen_bits(path, RATE, 0.5)
    clip, again = read_clip(path, RATE, 0.5)
    if not np.isfinite(samples).all() or not np.isfinite(clip).all(): return "samples that are no numbers"
    if abs(len(samples) / rate - seconds) > 1e-6: return f"{len(samples) / rate} s are read, {seconds} s are said"
    if max(abs(seconds - same), abs(seconds - again)) > 1e-6: return f"three functions say {seconds}, {same} and {again} s"
    return None


def attempt_length(folder: Path, sounds) -> str | None:
    """As `attempt_sound`, and FFmpeg must count as many samples, to within a frame. For MP3, to within three: an encoder's delay and
    padding stand in a tag of their own, and where that is damaged, one decoder takes them off and the other does not."""
    from nonspeech7k.data.decoding import read_sound
    path = next(iter(folder.iterdir()))
    samples, rate, _ = read_sound(path)
    other = second_opinion(path)
    if other is None or other[1] != rate or not other[0]: return None
    count, _, frame = other
    near = 3 * frame if path.suffix == ".mp3" else max(frame, 1152)
    return f"{len(samples)} samples, FFmpeg decodes {count}" if abs(len(samples) - count) > near else None


def tiny_classifier(folder: Path) -> Path:
    "The file of an untrained classifier of three sounds."
    import torch

    from nonspeech7k.inference.classifier import build_classifier, describe, save_classifier
    from nonspeech7k.recipe import Recipe
    torch.manual_seed(0)
    recipe = Recipe(name="tiny", corpus={"root": "."}, clip={"rate": RATE, "seconds": 0.5}, front_end={"n_fft": 256, "hop_length": 128, "n_mels": 16}, augment={"frequency_mask": 2, "time_mask": 4},
                    network={"kind": "residual", "channels": [4, 4, 4], "hidden": 8})
    return save_classifier(build_classifier(describe(["breath", "cough", "laugh"], recipe.model_dump())), folder / "tiny.safetensors")


def sounds_and_classifier(folder: Path) -> tuple:
    from nonspeech7k.inference.classifier import load_classifier
    return good_sounds(folder), load_classifier(tiny_classifier(folder))


def attempt_events(folder: Path, prepared: tuple) -> str | None:
    from nonspeech7k.inference.events import events
    path = next(iter(folder.iterdir()))
    for event in events(prepared[1], path, threshold=0.34):
        if not (0 <= event.onset < event.offset < 1e6 and 0 <= event.confidence <= 1): return f"an event that cannot be: {event}"
    return None


def spoil_corpus(rng: np.random.Generator, sounds: dict[str, list[bytes]]) -> Files:
    (name, content), = spoil_sound(rng, sounds).items()
    return {f"cough/{name}": content, "cough/a.wav": sounds["wav"][0], "laugh/b.wav": sounds["wav"][1]}


def attempt_audit(folder: Path, sounds) -> str | None:
    from nonspeech7k.data.audit import audit
    from nonspeech7k.data.layouts import read_corpus
    found = audit(read_corpus(folder, "folders"), workers=1)
    json.dumps(found, allow_nan=False)
    return None


# Tables

TABLES = {
    "csv": ("clips.csv", b"path,label,group,split,fold,duration,note\naudio/0.wav,cough,a,train,1,0.4,x\naudio/1.wav,laugh,b,train,2,0.4,y\naudio/2.wav,cough,c,test,0,0.4,z\n"),
    "folders": ("labels.csv", b"file,label,group,sex\ncough/0.wav,cough,a,f\ncough/1.wav,cough,b,m\nlaugh/2.wav,laugh,c,f\n"),
    "esc50": ("meta/esc50.csv", b"filename,fold,target,category,esc10,src_file,take\n0.wav,1,0,dog,True,100,A\n1.wav,2,1,rain,True,101,A\n2.wav,3,0,dog,False,102,B\n"),
    "nonspeech7k": ("metadata of train set.csv", b"Filename,File ID,Duration in ms,Class ID,Classname,augmentation  id,Augmentation  type,source\n0_0_0.wav,0,400,0,breath,0,Orignal,Freesound\n"
                    b"1_1_0.wav,1,400,1,cough,0,Original,Aigei\n2_6_0.wav,2,400,6,yawm,0,Original,YouTube\n")}
PLACES = {"csv": "audio/{}.wav", "esc50": "audio/{}.wav"}


def spoil_table(rng: np.random.Generator, wave: bytes) -> Files:
    layout = chosen(rng, list(TABLES))
    name, content = TABLES[layout]
    others = [table for _, table in TABLES.values()]
    files = {"csv": ["audio/0.wav", "audio/1.wav", "audio/2.wav"], "folders": ["cough/0.wav", "cough/1.wav", "laugh/2.wav"], "esc50": ["audio/0.wav", "audio/1.wav", "audio/2.wav"],
             "nonspeech7k": ["train/0_0_0.wav", "train/1_1_0.wav", "train/2_6_0.wav"]}[layout]
    return {f"{layout}/{file}": wave for file in files} | {f"{layout}/{name}": spoiled(rng, content, others, TEXT)}


def attempt_table(folder: Path, wave: bytes) -> str | None:
    from nonspeech7k.data.audit import audit
    from nonspeech7k.data.layouts import read_corpus
    root = next(iter(folder.iterdir()))
    corpus = read_corpus(root, root.name, **({"table": "clips.csv"} if root.name == "csv" else {}))
    if not {"path", "label", "group", "split", "fold", "duration"} <= set(corpus.manifest): return "a manifest without its columns"
    if corpus.manifest["path"].duplicated().any(): return "a clip that stands twice in the manifest"
    json.dumps(audit(corpus, workers=1), allow_nan=False)
    return None


# Recipes and maps

def recipe_texts(folder: Path) -> list[bytes]:
    from nonspeech7k.files import resource
    from nonspeech7k.recipe import read_recipe, recipe_yaml
    names = ("demo", "folders", "nonspeech7k", "esc50") if (Path(__file__).parents[2] / "recipes/esc50.yaml").exists() else ("demo", "folders")
    return [*(resource("recipes", f"{name}.yaml").read_bytes() for name in names), recipe_yaml(read_recipe("demo")).encode(), b"name: short\ncorpus: {root: data/demo}\n"]


def spoil_recipe(rng: np.random.Generator, texts: list[bytes]) -> Files:
    if rng.random() < 0.4: return {"recipe.yaml": recipe_of_values(rng, texts[-2])}
    return {"recipe.yaml": spoiled(rng, chosen(rng, texts), texts, TEXT)}


def recipe_of_values(rng: np.random.Generator, text: bytes) -> bytes:
    "A whole recipe, with some of its values exchanged."
    import yaml
    return yaml.dump(spoiled_values(rng, yaml.safe_load(text)), allow_unicode=True).encode("utf-8", "surrogatepass")


def attempt_recipe(folder: Path, texts) -> str | None:
    from nonspeech7k.recipe import Recipe, read_recipe, recipe_yaml
    recipe = read_recipe(folder / "recipe.yaml")
    (folder / "again.yaml").write_text(recipe_yaml(recipe), encoding="utf-8")
    return None if isinstance(recipe, Recipe) and read_recipe(folder / "again.yaml") == recipe else "a recipe that is another one when it is read again"


CHANGES = (b"train.epochs=5", b"corpus.root=site #2", b"network.channels=[4, 8, 8]", b"clip.seconds=2.0", b"augment.per_class={cough: {gain: [0.5, 2]}}", b"corpus.where={split: 010}",
           b"front_end.kind=mfcc", b"seed=1", b"corpus.labels=[yes, no]", b"name=a-b")


def spoil_change(rng: np.random.Generator, nothing) -> Files:
    return {"change": spoiled(rng, chosen(rng, CHANGES), list(CHANGES), TEXT, most=3)}


def attempt_change(folder: Path, nothing) -> str | None:
    from nonspeech7k.recipe import Recipe, read_recipe
    change = (folder / "change").read_bytes().decode("utf-8", "surrogateescape") # as a command line gives it
    return None if isinstance(read_recipe("demo", [change]), Recipe) else "no recipe"


MAPS = (b"coughing: cough\nlaughing: laugh\n", b"{a: cough, b: breath}\n", b"'yes': laugh\n\"no\": cough\n")


def spoil_map(rng: np.random.Generator, nothing) -> Files:
    return {"map.yaml": spoiled(rng, chosen(rng, MAPS), list(MAPS), TEXT)}


def attempt_map(folder: Path, nothing) -> str | None:
    from nonspeech7k.runs.elsewhere import check_map, read_map, unused_lines
    theirs, own = ("coughing", "laughing", "a", "b", "yes", "no"), ["breath", "cough", "laugh"]
    labels = read_map(folder / "map.yaml")
    unused_lines(labels, theirs)
    kept = check_map(labels, own, theirs)
    return None if set(kept.values()) <= set(own) else "a class that the classifier lacks"


# Classifier files

def taken_apart(content: bytes) -> tuple[dict, bytes]:
    "The header and the numbers of a safetensors file."
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8:8 + size]), content[8 + size:]


def put_together(header: dict, numbers: bytes) -> bytes:
    text = as_json(header)
    return struct.pack("<Q", len(text)) + text + numbers


def without_digest(text: str) -> str:
    "A classifier's description as earlier versions wrote it: nothing is left but the look at each value."
    return json.dumps({key: value for key, value in json.loads(text).items() if key != "digest"})


def classifiers(folder: Path) -> tuple:
    path = tiny_classifier(folder)
    return path.read_bytes(), encoded("WAV", "PCM_16")


def spoil_classifier(rng: np.random.Generator, prepared: tuple) -> Files:
    model, wave = prepared
    header, numbers = taken_apart(model)
    how = rng.random()
    if rng.random() < 0.8: header["__metadata__"]["nonspeech7k"] = without_digest(header["__metadata__"]["nonspeech7k"])
    if how < 0.6:
        metadata = spoiled_values(rng, json.loads(without_digest(header["__metadata__"]["nonspeech7k"])))
        header["__metadata__"]["nonspeech7k"] = json.dumps(metadata)
        model = put_together(header, numbers)
    elif how < 0.75: model = put_together(spoiled_values(rng, header), numbers)
    elif how < 0.85: model = put_together(header, spoiled(rng, numbers, [numbers]))
    else: model = spoiled(rng, model, [model, wave])
    return {"model.safetensors": model, "sound.wav": wave}


def attempt_classifier(folder: Path, prepared: tuple) -> str | None:
    from nonspeech7k.inference.classifier import load_classifier, predict
    classifier = load_classifier(folder / "model.safetensors")
    answer, = predict(classifier, [folder / "sound.wav"], workers=1)
    if isinstance(answer, Exception): raise answer
    json.dumps(answer, allow_nan=False)
    shares = list(answer["probabilities"].values())
    if not all(0 <= share <= 1 for share in shares) or len(shares) != len(classifier.labels): return f"probabilities that cannot be: {shares}"
    return None


# Runs

def finished_run(folder: Path) -> Path:
    "A run of a tiny synthetic corpus, made anew."
    import torch

    from nonspeech7k.data.synthesis import write_demo
    from nonspeech7k.runs.folder import open_run
    from nonspeech7k.runs.stages import complete
    torch.set_num_threads(1) # as those will who go on with it
    demo = write_demo(folder / "demo", seed=1, train=42, test=14, rate=RATE)
    changes = [f"corpus.root={demo}", f"banks={folder / 'banks'}", f"clip.rate={RATE}", "clip.seconds=1.0", "front_end.n_fft=256", "front_end.hop_length=128", "front_end.n_mels=16", "augment.frequency_mask=2",
               "augment.time_mask=4", "network.channels=[4, 4, 4]", "network.hidden=8", "train.epochs=1", "splits.folds=2"]
    complete(open_run("demo", folder / "run", changes))
    return folder


READ_AGAIN = ("predictions.csv", "manifest.csv", "metrics.json", "audit.json", "environment.json", "recipe.yaml", "training.json")


def run_files(place: Path) -> Files:
    return {path.relative_to(place / "run").as_posix(): path.read_bytes() for path in sorted((place / "run").rglob("*")) if path.is_file()}


def prepared_run(folder: Path) -> tuple[Path, Files]:
    "A finished run that all processes share, and its files."
    place = folder.parent / "run" # made by whoever starts the processes
    return place, run_files(place)


def values_of(content: bytes):
    "What a JSON file says; None for another file."
    try: return json.loads(content)
    except ValueError: return None


def spoil_files(rng: np.random.Generator, files: Files, names: list[str]) -> Files:
    "The same files, one to three of them spoiled, emptied, gone or exchanged."
    files = dict(files)
    for _ in range(int(rng.integers(1, 4))):
        name, how = chosen(rng, names), rng.random()
        if name not in files: continue
        if how < 0.08: del files[name]
        elif how < 0.12: files[name] = b""
        elif how < 0.2: files[name] = files[chosen(rng, [other for other in names if other in files])]
        elif how < 0.55 and (values := values_of(files[name])): files[name] = as_json(spoiled_values(rng, values))
        else: files[name] = spoiled(rng, files[name], [files[name]], TEXT if name.endswith((".csv", ".json", ".yaml")) else BYTES)
    return files


def spoil_compared(rng: np.random.Generator, prepared: tuple) -> Files:
    files = {name: content for name, content in prepared[1].items() if name in READ_AGAIN}
    return {f"a/{name}": content for name, content in spoil_files(rng, files, [name for name in READ_AGAIN if name in files]).items()}


def attempt_compared(folder: Path, prepared: tuple) -> str | None:
    from nonspeech7k.runs.comparing import compare_runs, comparison_text
    (folder / "a").mkdir(exist_ok=True)
    found = compare_runs(folder / "a", prepared[0] / "run", resamples=20)
    json.dumps(found, allow_nan=False)
    comparison_text(found)
    return None


def spoil_run(rng: np.random.Generator, prepared: tuple) -> Files:
    place, files = prepared
    kept = {name: content for name, content in files.items() if not name.startswith(("notebooks/", "tensorboard/"))}
    read = sorted(name for name in kept if not name.startswith("plots/"))
    return {f"run/{name}": content for name, content in spoil_files(rng, kept, read).items()}


def attempt_run(folder: Path, prepared: tuple) -> str | None:
    from nonspeech7k.evaluation.predictions import read_predictions
    from nonspeech7k.evaluation.scores import results_table
    from nonspeech7k.runs.folder import open_run
    from nonspeech7k.runs.stages import complete
    place, files = prepared
    if not (folder / "run/recipe.yaml").exists(): return None # a folder without a recipe is no run
    metrics = complete(open_run(place / "run/recipe.yaml", folder / "run"))
    results_table(metrics)
    json.dumps(metrics, allow_nan=False)
    now, before = read_predictions(folder / "run/predictions.csv"), read_predictions(place / "run/predictions.csv")
    return None if now.equals(before) else "other predictions than those of the run that was not damaged"


# Labelling in bulk

def manifests(folder: Path) -> tuple:
    return tiny_classifier(folder), encoded("WAV", "PCM_16"), odd_tables()


def odd_tables() -> list[bytes]:
    "Parquet files, one of them as it should be, the others with a column `path` of another kind."
    import pyarrow as pa
    from pyarrow import parquet
    columns = (["a.wav", "b.wav"], [1, 2], [None, "a.wav"], [["a.wav"], []], [{"a": "a.wav"}, {"a": None}], [b"a.wav", b"\xff.wav"], [True, False], [1.5, float("nan")], [])
    tables = [pa.table({"path": column}) for column in columns]
    tables += [pa.table({"path": pa.array(["a.wav", "b.wav"]).dictionary_encode()}), pa.table({"other": ["a.wav"]})]
    result = []
    for table in tables:
        parquet.write_table(table, sink := io.BytesIO())
        result.append(sink.getvalue())
    return result


CSVS = (b"path,label\na.wav,x\nb.wav,y\n", b"path;label\r\na.wav;x\r\n", b"path\n a.wav \nsub\\b.WAV\n", b"\xef\xbb\xbfpath\tother\na.wav\t1\n")


def spoil_manifest(rng: np.random.Generator, prepared: tuple) -> Files:
    _, wave, tables = prepared
    sounds = {"a.wav": wave, "b.wav": wave[:2000]}
    if rng.random() < 0.4: return sounds | {"list.parquet": spoiled(rng, chosen(rng, tables), tables) if rng.random() < 0.8 else chosen(rng, tables)}
    return sounds | {chosen(rng, ("list.csv", "LIST.CSV", "list.tsv")): spoiled(rng, chosen(rng, CSVS), list(CSVS), TEXT)}


def attempt_manifest(folder: Path, prepared: tuple) -> str | None:
    from nonspeech7k.inference.bulk import read_tags, tag
    manifest = next(path for path in folder.iterdir() if path.stem.lower() == "list")
    found = tag(prepared[0], manifest, folder / "out", part=2, workers=1)
    return None if found["labelled"] + found["bad"] == found["clips"] and len(read_tags(folder / "out")) == found["labelled"] else "clips that are not counted"


def finished_job(folder: Path) -> tuple:
    from nonspeech7k.inference.bulk import tag
    model, wave = tiny_classifier(folder), encoded("WAV", "PCM_16")
    for name in ("a.wav", "b.wav", "c.wav"):
        (folder / "sounds").mkdir(exist_ok=True)
        (folder / "sounds" / name).write_bytes(wave)
    (folder / "sounds/d.wav").write_bytes(b"none")
    tag(model, folder / "sounds", folder / "job", part=2, workers=1)
    files = {path.relative_to(folder / "job").as_posix(): path.read_bytes() for path in sorted((folder / "job").rglob("*")) if path.is_file() and not path.name.startswith(".")}
    return model, folder / "sounds", files


def spoil_job(rng: np.random.Generator, prepared: tuple) -> Files:
    return {f"job/{name}": content for name, content in spoil_files(rng, prepared[2], sorted(prepared[2])).items()}


def attempt_job(folder: Path, prepared: tuple) -> str | None:
    from nonspeech7k.inference.bulk import read_bad, read_tags, tag
    model, sounds, _ = prepared
    (folder / "job").mkdir(exist_ok=True)
    found = tag(model, sounds, folder / "job", part=2, workers=1)
    tags, bad = read_tags(folder / "job"), read_bad(folder / "job")
    return None if found["clips"] == 4 == len(tags) + len(bad) else f"{len(tags)} labelled and {len(bad)} bad of 4"


# Files of embeddings

def embedding_files(folder: Path) -> tuple:
    "A classifier, a sound, and embeddings as we write them and as others might."
    import pyarrow as pa
    from pyarrow import parquet

    from nonspeech7k.files import digest
    from nonspeech7k.inference.classifier import embedding_units, load_classifier
    from nonspeech7k.inference.embeddings import Embeddings, write_embeddings
    model = tiny_classifier(folder)
    classifier, rng = load_classifier(model), np.random.default_rng(0)
    found = Embeddings(("a.wav", "b/c.wav", "d.wav"), rng.random((3, embedding_units(classifier)), np.float32), digest(model))
    good = {form: [write_embeddings(folder / f"good.{form}", found).read_bytes()] for form in ("npz", "parquet")}
    parts = {"paths": np.array(found.paths), "embeddings": found.values.astype(np.float64), "model": np.array(found.model)}
    with open(folder / "packed.npz", "wb") as file: np.savez_compressed(file, **parts)
    about = {"nonspeech7k": json.dumps({"format": 1, "model": found.model, "root": "sounds"})}
    lists = pa.table({"path": list(found.paths), "embedding": found.values.tolist(), "label": ["x", "y", None]}).replace_schema_metadata(about)
    for options in ({}, {"use_dictionary": False, "compression": "none"}):
        parquet.write_table(lists, sink := io.BytesIO(), **options)
        good["parquet"].append(sink.getvalue())
    good["npz"].append((folder / "packed.npz").read_bytes())
    return model, digest(model), classifier, encoded("WAV", "PCM_16"), good, parts


def odd_archive(rng: np.random.Generator, parts: dict) -> bytes:
    "An archive whose arrays have other headers or contents, each of its parts whole by itself."
    import zipfile
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", chosen(rng, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))) as archive:
        for name, array in parts.items():
            np.save(part := io.BytesIO(), array)
            content = spoiled(rng, part.getvalue(), [part.getvalue()], TEXT) if rng.random() < 0.5 else part.getvalue()
            if rng.random() < 0.1: content = bytes(1 << 26) # much from little
            if rng.random() < 0.9: archive.writestr(f"{name}.npy", content)
    return sink.getvalue()


def spoil_embeddings(rng: np.random.Generator, prepared: tuple) -> Files:
    *_, wave, good, parts = prepared
    if rng.random() < 0.4: return {"found.npz": odd_archive(rng, parts), "a.wav": wave}
    form = chosen(rng, ("npz", "parquet", "parquet"))
    return {f"found.{form}": spoiled(rng, chosen(rng, good[form]), good[form]), "a.wav": wave}


def attempt_embeddings(folder: Path, prepared: tuple) -> str | None:
    from nonspeech7k.inference.embeddings import embed, read_embeddings, refuse_other_model
    from nonspeech7k.inference.neighbours import nearest, neighbour_lines
    _, model, classifier, *_ = prepared
    place = next(path for path in folder.iterdir() if path.stem == "found")
    found = read_embeddings(place)
    query, _ = embed(classifier, model, [folder / "a.wav"])
    refuse_other_model(found, place, model, query.values.shape[1])
    near = nearest(query.values[0], found, but=folder / "a.wav")
    lines = [*neighbour_lines(near, "jsonl"), *neighbour_lines(near, "csv"), *neighbour_lines(near)]
    for line in lines: line.encode("utf-8", "backslashreplace")
    return None if all(0 <= one.distance <= 2 for one in near) and len(near) <= len(found.paths) else f"neighbours that cannot be: {near}"[:300]


def no_preparation(folder: Path): return None


def one_wave(folder: Path) -> bytes: return encoded("WAV", "PCM_16")


DOORS = {door.name: door for door in (
    Door("sound, decoded in process", good_sounds, spoil_sound, attempt_sound),
    Door("sound, length against FFmpeg's", good_sounds, spoil_sound, attempt_length),
    Door("sound through events", sounds_and_classifier, lambda rng, prepared: spoil_sound(rng, prepared[0]), attempt_events),
    Door("sound through the audit", good_sounds, spoil_corpus, attempt_audit, seldom=2),
    Door("tables", one_wave, spoil_table, attempt_table),
    Door("recipes", recipe_texts, spoil_recipe, attempt_recipe),
    Door("changes with --set", no_preparation, spoil_change, attempt_change),
    Door("label maps", no_preparation, spoil_map, attempt_map),
    Door("classifier files", classifiers, spoil_classifier, attempt_classifier),
    Door("compare, on a stranger's run folder", prepared_run, spoil_compared, attempt_compared, seldom=2),
    Door("a damaged run folder, gone on with", prepared_run, spoil_run, attempt_run, works=True, seldom=10),
    Door("tag, manifests", manifests, spoil_manifest, attempt_manifest),
    Door("tag, a damaged job's folder", finished_job, spoil_job, attempt_job),
    Door("embedding files", embedding_files, spoil_embeddings, attempt_embeddings))}


def write_files(folder: Path, files: Files):
    "The files of a case in a folder that is empty before."
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def case(door: Door, prepared: object, seed: int, number: int) -> Files:
    "The files of one case; the same number makes the same case."
    names = list(DOORS)
    return door.spoil(np.random.default_rng([seed, names.index(door.name), number]), prepared)


def cases(door: Door, prepared: object, seed: int, numbers: range) -> Iterator[tuple[int, Files]]:
    for number in numbers: yield number, case(door, prepared, seed, number)
