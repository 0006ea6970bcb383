"""Does a backbone learn from the posters before it hears of genres?

Barlow Twins (Zbontar et al., 2021) on the training posters, without their labels; the weights then start a run.

    python benchmarks/self_supervised.py --epochs 30 --out outputs/barlow.safetensors experiment=scratch
    onesheet train experiment=scratch model.pretrained=true model.weights=outputs/barlow.safetensors
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from input_pipeline import build
from safetensors.torch import save_file
from timm.optim import Muon
from torch import Tensor, nn

from onesheet.data.augmentation import augment
from onesheet.training.compose import compose_config
from onesheet.training.config import AugmentConfig
from onesheet.training.network import PosterNet

VIEWS = AugmentConfig(min_scale=0.25, flip=0.5, rotate=5, jitter=0.4, greyscale=0.2, erase=0.3)
PROJECTION = 1024
# Weight of "different outputs say different things" against "both views say the same".
REDUNDANCY = 0.005
LEARNING_RATE = 3e-3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    config = compose_config(["model.pretrained=false", *arguments.overrides])
    torch.manual_seed(config.seed)
    posters, module = build(config)
    network, projector = module.network, projection(module.network)
    parameters = [*network.backbone.parameters(), *projector.parameters()]
    optimizer = Muon(parameters, lr=LEARNING_RATE, weight_decay=0.05)
    loader = posters.train_dataloader()
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=arguments.epochs * len(loader), pct_start=0.1
    )
    for epoch in range(1, arguments.epochs + 1):
        began, total = time.perf_counter(), 0.0
        loader.sampler.set_epoch(epoch)
        for images, _ in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=config.trainer.precision == "bf16-mixed"):
                outputs = [projector(network.backbone(view(network, images))) for _ in range(2)]
            loss = barlow_twins(*(output.float() for output in outputs))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch}: loss {total / len(loader):.2f}, {time.perf_counter() - began:.0f} s", flush=True)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.contiguous() for name, tensor in network.backbone.state_dict().items()}
        save_file(weights, arguments.out)


def projection(network: PosterNet) -> nn.Module:
    size = network.head.in_features
    return nn.Sequential(
        nn.Linear(size, PROJECTION, bias=False),
        nn.BatchNorm1d(PROJECTION),
        nn.ReLU(),
        nn.Linear(PROJECTION, PROJECTION, bias=False),
    )


def view(network: PosterNet, images: Tensor) -> Tensor:
    """The posters, differently seen each time: uint8 `[N, H, W, 3]` to float `[N, 3, h, w]`, a quarter smaller."""
    height, width = (round(side / 1.25) for side in images.shape[1:3])
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        pixels = network.standardise(augment(images, VIEWS, height, width))
    return pixels.contiguous(memory_format=torch.channels_last)


def barlow_twins(one: Tensor, other: Tensor) -> Tensor:
    """How far the cross-correlation of two views' outputs `[N, D]` is from the identity."""
    one, other = ((part - part.mean(0)) / (part.std(0) + 1e-5) for part in (one, other))
    correlation = one.T @ other / len(one)
    same = torch.diagonal(correlation)
    return ((same - 1) ** 2).sum() + REDUNDANCY * ((correlation**2).sum() - (same**2).sum())


if __name__ == "__main__":
    main()
