"""Trains a small ConvFirst network in PyTorch on scikit-learn's digits, and runs it with kgen.

    pip install 'kgen[torch]' scikit-learn
    python docs/digits.py digits.safetensors

On a CPU it takes about a minute. kgen then runs the very weights: on a GPU with its kernels, else in NumPy.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from kgen.networks import Network, load, load_weights
from kgen.torch import ConvFirstNet

NETWORK = Network("digits", widths=(32, 64), depths=(2, 2), image_channels=1, classes=10, patch=1)
EPOCHS = 30
BATCH = 64
SHIFT = 1  # pixels by which images are moved at random while training


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (n, 1, 8, 8) of about unit variance and labels (n), for training and held out."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 1, 8, 8) - images.mean()) / images.std()
    split = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    x, held_out_x, y, held_out_y = (torch.from_numpy(part) for part in split)
    return x.float(), y, held_out_x.float(), held_out_y


def train(x: torch.Tensor, y: torch.Tensor) -> ConvFirstNet:
    torch.manual_seed(0)
    model = ConvFirstNet(
        NETWORK.widths, NETWORK.depths, image_channels=NETWORK.image_channels, classes=NETWORK.classes, patch=1
    )
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            loss = nn.functional.cross_entropy(model(_moved(x[batch])), y[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _moved(x: torch.Tensor) -> torch.Tensor:
    down, right = (int(shift) for shift in torch.randint(-SHIFT, SHIFT + 1, (2,)))
    return torch.roll(x, (down, right), dims=(2, 3))


def predict(path: Path, images: torch.Tensor) -> Any:
    """Classes (n), by kgen, in float16."""
    model = load(NETWORK, load_weights(path, NETWORK))
    x = images.half().contiguous(memory_format=torch.channels_last)
    logits = model(x.cuda() if torch.cuda.is_available() else x)
    return np.asarray(logits.float().cpu()).argmax(axis=1)


def main(path: Path) -> tuple[float, float]:
    """Accuracy on images held out, of PyTorch in float32 and of kgen."""
    x, y, held_out_x, held_out_y = digits()
    model = train(x, y)
    safetensors.torch.save_file(model.state_dict(), path)
    with torch.no_grad():
        stock = model(held_out_x).argmax(dim=1).numpy()
    ours = predict(path, held_out_x)
    accuracies = tuple(float((one == held_out_y.numpy()).mean()) for one in (stock, ours))
    agree = int((stock == ours).sum())
    print(f"held out: PyTorch {accuracies[0]:.1%}, kgen {accuracies[1]:.1%}; {agree} of {len(ours)} predictions agree")
    return accuracies[0], accuracies[1]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
