"""System S1 as people write it: a Dataset that decodes, transforms and augments one clip at a time, a DataLoader with two workers, fp32.

This is the yardstick of `benchmarks.cpu`. Nothing in it is slow on purpose: files are decoded with soundfile, the transforms
are torchaudio's, objects that can be made once are made once, the moments of the features are measured once a study.
It trains the same network on the same features with the same steps as the library does, and `tests/test_parity.py` holds
the two to the same losses."""
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch.utils.data import DataLoader, Dataset

from nonspeech7k.recipe import Recipe

WORKERS = 2


class ResidualBlock(nn.Module):
    "Two 3×3 convolutions with a 1×1 shortcut."
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.correction = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x):
        return torch.relu(self.correction(x) + self.shortcut(x))


class ResidualCNN(nn.Module):
    "The reference network; its parameters have the names that the library's have, so that weights can be copied."
    def __init__(self, classes: int, channels: Sequence[int] = (32, 64, 128, 256), hidden: int = 512,
                 dropout: float = 0.5):
        super().__init__()
        layers = [nn.Conv2d(1, channels[0], kernel_size=3, padding=1), nn.BatchNorm2d(channels[0]),
                  nn.ReLU(inplace=True)]
        for inputs, outputs in zip(channels[:-1], channels[1:]):
            layers.append(nn.MaxPool2d(2))
            layers.append(ResidualBlock(inputs, outputs))
        layers.append(nn.AdaptiveAvgPool2d(1))
        layers.append(nn.Flatten())
        self.stages = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(channels[-1], hidden), nn.ReLU(inplace=True), nn.Dropout(dropout),
                                  nn.Linear(hidden, classes))

    def forward(self, x):
        return self.head(self.stages(x))


@dataclass(frozen=True)
class Changes:
    "What augmentation does to one clip."
    step: int  # samples that it moves
    gain: float
    noise: torch.Tensor | float  # (1, bands, frames), or 0
    bands: slice  # hidden
    frames: slice  # hidden


class Augmentation:
    "Draws a clip's changes from PyTorch's generator, which the DataLoader seeds in each worker."
    def __init__(self, recipe: Recipe):
        self.settings = recipe.augment

    def draw(self, samples: int, bands: int, frames: int) -> Changes:
        roll, (low, high) = self.settings.roll, self.settings.gain
        noise = self.settings.noise * torch.randn(1, bands, frames) if self.settings.noise else 0.0
        return Changes(
            step=round(float(torch.empty(()).uniform_(-roll, roll)) * samples),
            gain=float(torch.empty(()).uniform_(low, high)),
            noise=noise,
            bands=self._run(self.settings.frequency_mask, bands),
            frames=self._run(self.settings.time_mask, frames))

    @staticmethod
    def _run(widest: int, size: int) -> slice:
        width = int(torch.randint(0, widest + 1, ()))
        start = int(torch.randint(0, size - width + 1, ()))
        return slice(start, start + width)


class ClipDataset(Dataset):
    "Standardised mel spectrograms (1, bands, frames) and class numbers, one clip at a time, from its file."
    def __init__(self, files: Sequence[Path], targets: Sequence[int], recipe: Recipe, mean: float = 0.0,
                 deviation: float = 1.0, augmentation: Augmentation | None = None):
        self.files, self.targets = files, targets
        self.mean, self.deviation, self.augmentation = mean, deviation, augmentation
        self.rate, self.length = recipe.clip.rate, round(recipe.clip.rate * recipe.clip.seconds)
        front = recipe.front_end
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=self.rate, n_fft=front.n_fft, hop_length=front.hop_length, n_mels=front.n_mels,
            f_min=front.f_min, f_max=front.f_max, power=2.0)
        self.to_db = torchaudio.transforms.AmplitudeToDB(stype="power", top_db=front.top_db)
        self.resamplers = {}

    def __len__(self) -> int:
        return len(self.files)

    def load(self, index: int) -> torch.Tensor:  # (1, samples)
        samples, rate = soundfile.read(self.files[index], dtype="float32", always_2d=True)
        waveform = torch.from_numpy(samples.T).mean(dim=0, keepdim=True)
        if rate != self.rate:
            if rate not in self.resamplers:
                self.resamplers[rate] = torchaudio.transforms.Resample(rate, self.rate)
            waveform = self.resamplers[rate](waveform)
        if waveform.shape[1] < self.length:
            return nn.functional.pad(waveform, (0, self.length - waveform.shape[1]))
        return waveform[:, :self.length]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        waveform, changes = self.load(index), None
        if self.augmentation:
            frames = 1 + self.length // self.mel.hop_length
            changes = self.augmentation.draw(self.length, self.mel.n_mels, frames)
            waveform = torch.roll(waveform, changes.step, dims=1) * changes.gain
        features = (self.to_db(self.mel(waveform)) - self.mean) / self.deviation
        if changes:
            features = features + changes.noise
            features[:, changes.bands, :] = 0
            features[:, :, changes.frames] = 0
        return features, self.targets[index]


def moments(files: Sequence[Path], recipe: Recipe, workers: int = WORKERS) -> np.ndarray:  # (clips, 2)
    "Each clip's mean of the dB values, and of their squares."
    loader = DataLoader(ClipDataset(files, [0] * len(files), recipe), batch_size=32, num_workers=workers)
    values = [torch.stack([x.mean(dim=(1, 2, 3)), x.square().mean(dim=(1, 2, 3))], dim=1) for x, _ in loader]
    return torch.cat(values).double().numpy()


def mean_and_deviation(measured: np.ndarray) -> tuple[float, float]:
    mean, square = measured.mean(axis=0)
    return float(mean), float(np.sqrt(square - mean**2))


def class_weights(targets: Sequence[int], classes: int) -> torch.Tensor:
    inverse = 1 / np.bincount(targets, minlength=classes)
    return torch.tensor(inverse * classes / inverse.sum(), dtype=torch.float32)


def train_epoch(network: nn.Module, loader: DataLoader, loss_function: nn.Module, optimiser: torch.optim.Optimizer,
                clip_norm: float) -> float:  # mean loss of the batches
    network.train()
    losses = []
    for features, targets in loader:
        optimiser.zero_grad()
        loss = loss_function(network(features), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
        optimiser.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def predict(network: nn.Module, loader: DataLoader) -> tuple[torch.Tensor, torch.Tensor]:  # logits, targets
    network.eval()
    logits, targets = [], []
    with torch.no_grad():
        for features, labels in loader:
            logits.append(network(features))
            targets.append(labels)
    return torch.cat(logits), torch.cat(targets)


def scores(network: nn.Module, loader: DataLoader, loss_function: nn.Module) -> dict[str, float]:
    logits, targets = predict(network, loader)
    predicted = logits.argmax(dim=1)
    return {"loss": loss_function(logits, targets).item(), "accuracy": accuracy_score(targets, predicted),
            "macro_f1": f1_score(targets, predicted, average="macro", zero_division=0)}


def fit(network: nn.Module, train_loader: DataLoader, valid_loader: DataLoader | None, weights: torch.Tensor,
        recipe: Recipe) -> list[dict]:  # one record an epoch; the network has the best epoch's weights
    settings = recipe.train
    loss_function = nn.CrossEntropyLoss(weight=weights)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, patience=settings.schedule.patience, factor=settings.schedule.factor)
    history, best, best_weights = [], -1.0, None
    for epoch in range(1, settings.epochs + 1):
        record = {"epoch": epoch, "train_loss": train_epoch(network, train_loader, loss_function, optimiser,
                                                            settings.clip_norm)}
        if valid_loader is not None:
            record |= {f"valid_{name}": value for name, value in scores(network, valid_loader, loss_function).items()}
            if record["valid_macro_f1"] > best:
                best, best_weights = record["valid_macro_f1"], copy.deepcopy(network.state_dict())
        schedule.step(record.get("valid_loss", record["train_loss"]))
        history.append(record)
    if best_weights is not None: network.load_state_dict(best_weights)
    return history


def train_part(files: Sequence[Path], targets: Sequence[int], measured: np.ndarray, train: np.ndarray,
               valid: np.ndarray, classes: int, recipe: Recipe,
               workers: int = WORKERS) -> tuple[nn.Module, list[dict], tuple[float, float]]:
    "Train one fold, or on everything where `valid` is empty: the network, its history, mean and deviation."
    standard, size = mean_and_deviation(measured[train]), recipe.train.batch_size
    def dataset(indices, augmentation=None):
        return ClipDataset([files[i] for i in indices], [targets[i] for i in indices], recipe, *standard, augmentation)
    train_loader = DataLoader(dataset(train, Augmentation(recipe)), batch_size=size, shuffle=True,
                              drop_last=len(train) >= size, num_workers=workers)
    valid_loader = DataLoader(dataset(valid), batch_size=size, num_workers=workers) if len(valid) else None
    network = ResidualCNN(classes, recipe.network.channels, recipe.network.hidden, recipe.network.dropout)
    weights = class_weights([targets[i] for i in train], classes)
    history = fit(network, train_loader, valid_loader, weights, recipe)
    return network, history, standard


def study(files: Sequence[Path], targets: Sequence[int], fold: np.ndarray, classes: int, recipe: Recipe,
          workers: int = WORKERS) -> dict:
    "All folds, then a model of all training clips that is judged on those with fold 0."
    torch.manual_seed(recipe.seed)
    measured, histories = moments(files, recipe, workers), {}
    for number in sorted(set(fold.tolist()) - {0}):
        train, valid = np.flatnonzero((fold > 0) & (fold != number)), np.flatnonzero(fold == number)
        _, histories[f"fold {number}"], _ = train_part(
            files, targets, measured, train, valid, classes, recipe, workers)
    everything, test = np.flatnonzero(fold > 0), np.flatnonzero(fold == 0)
    network, histories["final"], standard = train_part(
        files, targets, measured, everything, np.array([], dtype=int), classes, recipe, workers)
    tested = ClipDataset([files[i] for i in test], [targets[i] for i in test], recipe, *standard)
    logits, truth = predict(network, DataLoader(tested, batch_size=recipe.train.batch_size, num_workers=workers))
    accuracy = float((logits.argmax(dim=1) == truth).double().mean())
    return {"histories": histories, "test_accuracy": accuracy}
