"""The reference system in miniature, on tones: what the tests in this folder train, in their own process and, run as a program, in others."""
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from nonspeech7k.features.augment import FeatureAugmentation, WaveformAugmentation
from nonspeech7k.features.spectrograms import LogMel, clip_moments, standardise
from nonspeech7k.models.residual import ResidualNetwork
from nonspeech7k.training.devices import Resident, choose_device, seed_weights
from nonspeech7k.training.fit import Learner, Optimisation, Plan, fit

RATE = 4000  # Hz
CLIPS, TRAIN, BATCH = 44, 32, 8  # 4 training batches; 12 clips to validate: one batch and a half
RATES = (1e-3, 1e-3, 2.5e-4)  # learning rates of the epochs


def clips(device: torch.device) -> tuple[Resident, torch.Tensor]:
    "One-second tones in noise, four classes by pitch, and their class numbers."
    targets = torch.arange(CLIPS) % 4
    turns = torch.arange(RATE) / RATE * 200 * (targets + 1)[:, None]
    noise = torch.randn(CLIPS, RATE, generator=torch.Generator().manual_seed(1))
    samples = ((0.5 * (2 * torch.pi * turns).sin() + 0.05 * noise) * 32767).short()
    scales = torch.full((CLIPS,), 1 / 32767)
    return Resident(samples.to(device), scales.to(device), torch.arange(CLIPS).to(device)), targets


def model(device: torch.device, bank: Resident, seed: int = 1) -> Learner:
    with seed_weights(seed):
        made = Learner(LogMel(RATE, n_fft=256, hop_length=128, n_mels=16).to(device),
                       ResidualNetwork(4, channels=(4, 8, 8, 8), hidden=16).to(device),
                       WaveformAugmentation(), FeatureAugmentation(noise=0.001, frequency_mask=3, time_mask=4))
    standardise(made.front_end, clip_moments(made.front_end, bank.waveforms(torch.arange(TRAIN))))
    return made


def train(device: torch.device, state: Path, seed: int = 1, on_epoch=lambda record: None, rates=RATES,
          mixup: float = 0.0, kill_after: int | None = None, **settings):
    "Train with all augmentation and dropout; the model, the best epoch's weights and the history."
    bank, targets = clips(device)
    made = replace(model(device, bank, seed), mixup=mixup)
    settings = Optimisation(**{"epochs": len(RATES), "batch_size": BATCH} | settings)
    def told(record):
        on_epoch(record)
        if record["epoch"] == kill_after: raise KeyboardInterrupt
    best, history = fit(Plan(learner=made, clips=bank, targets=targets, train=torch.arange(TRAIN), valid=torch.arange(TRAIN, CLIPS),
                             settings=settings, seed=seed, state_path=state, learning_rates=rates, on_epoch=told))
    return made, best, history


if __name__ == "__main__":
    import torch_xla.runtime
    device = choose_device("xla")
    bank, _ = clips(device)
    waveforms = bank.waveforms(torch.arange(BATCH))
    _, _, history = train(device, Path(sys.argv[1]))
    print(json.dumps({"devices": torch_xla.runtime.global_runtime_device_count(), "history": history,
                      "sharding": torch_xla._XLAC._get_xla_sharding_spec(waveforms)}))
