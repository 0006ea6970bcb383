"""Does the input pipeline keep the device fed? Training steps from the loader beside the same steps in memory.

Both sides run the same code on the same network: augmentation, forward, backward, optimizer. One takes its batches from
the data loader, the other takes one batch, already in memory, again and again. Rounds alternate, so that whatever else
the machine does hits both.

    python benchmarks/input_pipeline.py experiment=starter
    python benchmarks/input_pipeline.py experiment=starter data=streamed
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from onesheet.data.datamodule import PosterDataModule
from onesheet.data.dataset import Batch
from onesheet.data.manifest import MANIFEST_FILE, read_manifest
from onesheet.image import PreprocessSpec
from onesheet.training.compose import compose_config
from onesheet.training.config import TrainConfig
from onesheet.training.module import GenreModule
from onesheet.training.network import PosterNet

ROUNDS = 21
STEPS = 6


def main() -> None:
    config = compose_config(["model.pretrained=false", *sys.argv[1:]])
    torch.manual_seed(config.seed)
    posters, module = build(config)
    step = training_step(module, config)
    loaded = endless(posters)
    kept = next(loaded)
    in_memory, from_loader, only_loader = [], [], []
    for number in range(ROUNDS + 1):
        rates = [rate(step, lambda: kept), rate(step, lambda: next(loaded)), rate(lambda _: None, lambda: next(loaded))]
        if number == 0:
            continue  # warm-up
        for series, value in zip((in_memory, from_loader, only_loader), rates, strict=True):
            series.append(value * config.data.batch_size)
    fed = statistics.median(a / b for a, b in zip(from_loader, in_memory, strict=True))
    kind = "cached" if config.data.cache else f"read again by {config.data.workers} processes"
    print(f"{config.model.backbone} {config.model.height} x {config.model.width}, batches of {config.data.batch_size}")
    print(f"posters {kind}; {torch.get_num_threads()} threads, {config.trainer.precision}; median of {ROUNDS} rounds")
    print(f"  the loader alone          {statistics.median(only_loader):8.0f} images/s")
    print(f"  steps on a batch in memory {statistics.median(in_memory):7.1f} images/s")
    print(f"  steps from the loader      {statistics.median(from_loader):7.1f} images/s")
    print(f"  fed: {fed:.1%} (rounds {', '.join(f'{a / b:.0%}' for a, b in zip(from_loader, in_memory, strict=True))})")


def build(config: TrainConfig) -> tuple[PosterDataModule, GenreModule]:
    manifest = read_manifest(Path(config.data.processed) / MANIFEST_FILE, Path(config.data.raw))
    posters = PosterDataModule(manifest, config.data, PreprocessSpec(config.model.height, config.model.width))
    posters.setup("fit")
    counts = manifest.split("train").targets().sum(axis=0).tolist()
    network = PosterNet(config.model, len(counts), pretrained=False)
    module = GenreModule(network, config, {"genre_counts": {}}, counts=counts, posters=manifest.counts()["train"])
    return posters, module.train()


def training_step(module: GenreModule, config: TrainConfig) -> Callable[[Batch], None]:
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    bfloat16 = config.trainer.precision == "bf16-mixed"

    def step(batch: Batch) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            inputs, targets = module.prepare(*batch)
            logits, _ = module.network.classify(inputs)
            loss = module.loss(logits.float(), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def endless(posters: PosterDataModule) -> Iterator[Batch]:
    while True:
        yield from posters.train_dataloader()


def rate(step: Callable[[Batch], None], take: Callable[[], Batch]) -> float:
    """Steps per second."""
    began = time.perf_counter()
    for _ in range(STEPS):
        step(take())
    return STEPS / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
