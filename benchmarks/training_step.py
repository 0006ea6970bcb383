"""What a training step gains from precision, memory layout and compilation: the same step in turns, on one batch.

python benchmarks/training_step.py experiment=scratch
"""

from __future__ import annotations

import statistics
import sys

import torch
from input_pipeline import build, rate, training_step

from onesheet.training.compose import compose_config

ROUNDS = 7
VARIANTS = {
    "float32": (),
    "float32, channels last": ("trainer.channels_last=true",),
    "bfloat16": ("trainer.precision=bf16-mixed",),
    "bfloat16, channels last": ("trainer.precision=bf16-mixed", "trainer.channels_last=true"),
    "bfloat16, channels last, compiled": (
        "trainer.precision=bf16-mixed",
        "trainer.channels_last=true",
        "trainer.compile=true",
    ),
}


def main() -> None:
    plain = (
        "model.pretrained=false",
        "data.limit=32",
        "data.batch_size=32",
        "trainer.precision=32-true",
        "trainer.channels_last=false",
    )
    steps, batch = {}, None
    for name, overrides in VARIANTS.items():
        config = compose_config([*sys.argv[1:], *plain, *overrides])
        posters, module = build(config)
        batch = batch or next(iter(posters.train_dataloader()))
        steps[name] = training_step(module, config)
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(ROUNDS + 1):
        for name, step in steps.items():
            found = rate(step, lambda: batch) * len(batch[0])
            if number > 0:  # the first is for warming up
                rates[name].append(found)
    base = statistics.median(rates["float32"])
    print(f"{torch.get_num_threads()} threads; median of {ROUNDS} rounds")
    for name, found in rates.items():
        print(f"  {name:36} {statistics.median(found):7.1f} images/s   {statistics.median(found) / base:.2f} x")


if __name__ == "__main__":
    main()
