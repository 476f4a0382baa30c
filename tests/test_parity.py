"""The library trains as the plain loop does: from the same weights, on the same batches, the losses of three epochs agree."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks import plain_loop
from benchmarks.common import TINY, learner_of, moments_of, optimisation_of
from nonspeech7k.data.bank import open_bank
from nonspeech7k.features.draws import Draws
from nonspeech7k.features.spectrograms import standardise
from nonspeech7k.recipe import Recipe, read_recipe, seed_for
from nonspeech7k.training.devices import Resident, resident
from nonspeech7k.training.fit import Plan, batches, fit

CLASSES, SEED = 3, 5
STILL = ["augment.roll=0", "augment.gain=[1, 1]", "augment.noise=0", "augment.frequency_mask=0", "augment.time_mask=0",
         "network.dropout=0"]
EPOCHS = 3
# Allowed differences of an epoch's mean loss, which is about 1.1. In float32 the sums are taken in another order;
# bfloat16 keeps 8 bits of each number, so that one value may be off by 0.4 %, and a loss is allowed twice that.
# AdamW makes steps of full length also where a gradient is nothing but rounding, as that of a bias before a batch norm
# is: training does not see it, but the running means of validation do. Wide networks part sooner, so these are narrow.
FP32, BF16, VALID = 1e-4, 0.01, 5e-4


def recipe_with(*changes: str) -> Recipe:
    return read_recipe("nonspeech7k", [*TINY, f"train.epochs={EPOCHS}", "train.batch_size=8",
                                       "network.channels=[4, 8, 8]", "network.hidden=16", *changes])


@dataclass(frozen=True)
class Sounds:
    files: list[Path]
    targets: list[int]
    clips: Resident
    train: np.ndarray
    valid: np.ndarray


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Sounds:
    "Three kinds of noise, in files whose samples a bank holds exactly: both ways then start from the same waveforms."
    folder, clip, rng = tmp_path_factory.mktemp("sounds"), recipe_with().clip, np.random.default_rng(3)
    targets, files = [number % CLASSES for number in range(50)], []
    for number, target in enumerate(targets):
        noise = np.convolve(rng.normal(size=round(clip.rate * rng.uniform(0.2, 0.7))), np.ones(1 + 4 * target), "same")
        whole = np.round(noise * rng.uniform(1000, 4000)).clip(-32767, 32767)
        files.append(folder / f"{number}.wav")
        soundfile.write(files[-1], (whole / 32767).astype(np.float32), clip.rate, subtype="FLOAT")
    bank, bad = open_bank(files, clip.rate, clip.seconds, folder / "banks")
    assert not bad
    return Sounds(files, targets, resident(bank, torch.device("cpu")), np.arange(34), np.arange(34, 50))


def trained(sounds: Sounds, recipe: Recipe, folder: Path) -> tuple[dict, list[dict], torch.Tensor]:
    "The library's first weights, its history, and the moments of the features."
    torch.manual_seed(0)
    model = learner_of(recipe, CLASSES)
    weights = {name: value.clone() for name, value in model.network.state_dict().items()}
    moments = moments_of(model.front_end, sounds.clips)
    standardise(model.front_end, moments[sounds.train])
    _, history = fit(Plan(learner=model, clips=sounds.clips, targets=torch.tensor(sounds.targets),
                          train=torch.from_numpy(sounds.train), valid=torch.from_numpy(sounds.valid),
                          settings=optimisation_of(recipe), seed=SEED, state_path=folder / "fit.state"))
    return weights, history, moments


def orders(sounds: Sounds, recipe: Recipe) -> list[list[list[int]]]:
    "The batches of each epoch as the library's fit draws them."
    train, size = torch.from_numpy(sounds.train), recipe.train.batch_size
    seeds = [seed_for(SEED, "order", epoch) for epoch in range(1, EPOCHS + 1)]
    return [[batch.tolist() for batch in batches(train, size, torch.Generator().manual_seed(seed))] for seed in seeds]


class InOrder:
    "A batch sampler that gives each epoch's batches in turn, and tells which clip comes next."
    def __init__(self, epochs: list):
        self.epochs, self.epoch = epochs, -1

    def __len__(self) -> int:
        return len(self.epochs[0])

    def __iter__(self):
        self.epoch += 1
        yield from self.epochs[self.epoch]


class SharedAugmentation:
    "The changes and the dropout that the library draws, handed to the plain loop clip by clip."
    def __init__(self, sounds: Sounds, recipe: Recipe, order: list):
        self.changes, self.kept = [], []
        samples, part = sounds.clips.samples.shape[1], recipe.augment
        bands, frames = recipe.front_end.n_mels, 1 + samples // recipe.front_end.hop_length
        for epoch, epoch_batches in enumerate(order, start=1):
            draws = Draws(torch.Generator().manual_seed(seed_for(SEED, "augmentation", epoch)))
            for batch in epoch_batches: self._draw(draws, len(batch), samples, bands, frames, part, recipe.network)
        self.next_change, self.next_kept = iter(self.changes), iter(self.kept)

    def _draw(self, draws, rows, samples, bands, frames, part, network):
        steps = draws.uniform(rows, -part.roll * samples, part.roll * samples).round().int().tolist()
        gains = draws.uniform(rows, *part.gain).tolist()
        noise = part.noise * draws.normal(rows, 1, bands, frames)
        runs = []
        for widest, size in ((part.frequency_mask, bands), (part.time_mask, frames)):
            width = draws.uniform(rows, 0, widest + 1).floor().clamp(max=widest)
            start = (draws.uniform(rows, 0, 1) * (size - width + 1)).floor()
            runs.append([slice(int(a), int(a + b)) for a, b in zip(start, width)])
        self.changes += [plain_loop.Changes(*values) for values in zip(steps, gains, noise, *runs)]
        self.kept.append(draws.uniform(rows, 0, 1, network.hidden) >= network.dropout)

    def draw(self, *_) -> plain_loop.Changes:
        return next(self.next_change)


class SharedDropout(nn.Module):
    def __init__(self, share: float, shared: SharedAugmentation):
        super().__init__()
        self.share, self.shared = share, shared

    def forward(self, units):
        return units * next(self.shared.next_kept) / (1 - self.share) if self.training else units


def plainly_trained(sounds: Sounds, recipe: Recipe, weights: dict, moments: torch.Tensor, shared: bool) -> list[dict]:
    "The plain loop's history from the library's weights, batches and, where shared, random numbers."
    order = orders(sounds, recipe)
    together = SharedAugmentation(sounds, recipe, order) if shared else None
    standard = plain_loop.mean_and_deviation(moments[sounds.train].numpy())
    def dataset(augmentation=None):
        return plain_loop.ClipDataset(sounds.files, sounds.targets, recipe, *standard, augmentation)
    network = plain_loop.ResidualCNN(CLASSES, recipe.network.channels, recipe.network.hidden, recipe.network.dropout)
    network.load_state_dict(weights)
    if shared: network.head[2] = SharedDropout(recipe.network.dropout, together)
    train_loader = DataLoader(dataset(together), batch_sampler=InOrder(order))
    valid_loader = DataLoader(dataset(), sampler=sounds.valid.tolist(), batch_size=8)
    class_weights = plain_loop.class_weights([sounds.targets[index] for index in sounds.train], CLASSES)
    return plain_loop.fit(network, train_loader, valid_loader, class_weights, recipe)


def losses(history: list[dict], name: str) -> np.ndarray:
    return np.array([record[name] for record in history])


@pytest.mark.parametrize("channels", ["[4, 8, 8]", "[16, 16]"], ids=["PyTorch's operators", "own kernels"])
@pytest.mark.parametrize("shared", [False, True], ids=["as they are", "augmented, with dropout"])
def test_losses_follow_the_plain_loop_in_fp32(sounds, tmp_path, shared, channels):
    recipe = recipe_with("train.precision=fp32", f"network.channels={channels}", *([] if shared else STILL))
    weights, history, moments = trained(sounds, recipe, tmp_path)
    plain = plainly_trained(sounds, recipe, weights, moments, shared)
    np.testing.assert_allclose(losses(history, "train_loss"), losses(plain, "train_loss"), rtol=0, atol=FP32)
    np.testing.assert_allclose(losses(history, "valid_loss"), losses(plain, "valid_loss"), rtol=0, atol=VALID)
    assert losses(plain, "train_loss")[0] > losses(plain, "train_loss")[-1], "nothing was learnt, so nothing is compared"


@pytest.mark.parametrize("shared", [False, True], ids=["as they are", "augmented, with dropout"])
def test_losses_follow_the_plain_loop_in_bf16(sounds, tmp_path, shared):
    recipe = recipe_with("train.precision=bf16", *([] if shared else STILL))
    weights, history, moments = trained(sounds, recipe, tmp_path)
    plain = plainly_trained(sounds, recipe, weights, moments, shared)
    np.testing.assert_allclose(losses(history, "train_loss"), losses(plain, "train_loss"), rtol=0, atol=BF16)


def test_the_plain_network_is_the_librarys():
    recipe = read_recipe("nonspeech7k")
    plain, library = plain_loop.ResidualCNN(7), learner_of(recipe, 7).network
    assert sum(parameter.numel() for parameter in plain.parameters()) == 1_342_471
    shapes = {name: value.shape for name, value in plain.state_dict().items()}
    assert shapes == {name: value.shape for name, value in library.state_dict().items()}
