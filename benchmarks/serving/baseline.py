"""The student API as it was built, for comparison: torch in an async handler, a CSV rewritten for every answer.

BASELINE_MODEL=starter: the shipped model's weights; csatv2_21m: the student architecture, untrained, at the same cost.
Its bucket is a local file here, which flatters it. BASELINE_ANSWERS: how many answers the file holds from before.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import timm
import torch
from fastapi import FastAPI, File, UploadFile
from onnx import numpy_helper
from PIL import Image
from torch import nn
from torchvision import transforms

from onesheet.bundle import load_bundle
from onesheet.predictor import load_predictor
from onesheet.training.compose import compose_config
from onesheet.training.network import PosterNet

STUDENT_ARCHITECTURE = "csatv2_21m"
THRESHOLD = 0.55


class StarterWeights(nn.Module):
    """The starter as torch runs it: weights and biases of the bundle's own graph, checked against it."""

    def __init__(self) -> None:
        super().__init__()
        graph = onnx.load_from_string(load_bundle("starter").model).graph
        weights = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
        config = compose_config(["experiment=starter", "model.pretrained=false"])
        self.network = PosterNet(config.model, genres=24, pretrained=False).eval()
        biases: list[torch.Tensor] = []
        for name, layer in self.network.named_modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight = nn.Parameter(weights[f"network.{name}.weight"])
                biases.append(weights[f"network.{name}.weight_bias"])
            elif isinstance(layer, nn.BatchNorm2d):
                # The export folded it into the convolution before it; torch runs it as a layer of its own.
                layer.weight = nn.Parameter(torch.full_like(layer.weight, (1 + layer.eps) ** 0.5))
                layer.bias = nn.Parameter(biases.pop())
        self.network.head.weight = nn.Parameter(weights["network.head.weight"])
        self.network.head.bias = nn.Parameter(weights["network.head.bias"])
        self.scale, self.shift = weights["scale"], weights["shift"]
        self._check()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Calibrated logits `[N, G]` of normalised pictures `[N, 3, H, W]`."""
        return self.network.classify(inputs)[0] * self.scale + self.shift

    def _check(self) -> None:
        predictor = load_predictor("starter")
        spec = predictor.metadata.preprocess
        pixels = np.random.default_rng(0).integers(0, 256, (2, spec.height, spec.width, 3), np.uint8)
        with torch.inference_mode():
            found = self(self.network.normalise(torch.from_numpy(pixels))).sigmoid()
        np.testing.assert_allclose(found.numpy(), predictor.run(pixels)[0], atol=1e-4)


def load() -> tuple[nn.Module, transforms.Compose, list[str]]:
    """The model, what a picture goes through before it, and the genres."""
    metadata = load_bundle("starter").metadata
    if os.environ["BASELINE_MODEL"] == "starter":
        model: nn.Module = StarterWeights()
        size, standard = (metadata.preprocess.height, metadata.preprocess.width), model.network.backbone.pretrained_cfg
    else:
        model = timm.create_model(STUDENT_ARCHITECTURE, pretrained=False, num_classes=len(metadata.genres)).eval()
        size, standard = model.pretrained_cfg["input_size"][1:], model.pretrained_cfg
    steps = [
        transforms.Resize(size),
        transforms.ToTensor(),
        transforms.Normalize(standard["mean"], standard["std"]),
    ]
    return model, transforms.Compose(steps), list(metadata.genres)


app = FastAPI()
model, transform, genres = load()
database = Path(os.environ["BASELINE_CSV"])
database.write_text(
    "time,file,mean,std,min,max,genres,probabilities\n"
    + ("2026-11-24T12:00:00.000000+00:00,poster.jpg,100.000,60.000,0.000,255.000,Drama," + "0.123456;" * 24 + "\n")
    * int(os.environ.get("BASELINE_ANSWERS", "0"))
)


@app.get("/health")
async def health() -> dict[str, str]:
    """Always well."""
    return {"status": "ok"}


@app.post("/predict")
async def predict(file: UploadFile = File(...), topk: int = 5) -> dict[str, object]:  # noqa: B008
    """Everything on the event loop."""
    image = Image.open(file.file).convert("RGB")
    with torch.inference_mode():
        probabilities = model(transform(image)[None])[0].sigmoid().numpy()
    predicted = [genre for genre, value in zip(genres, probabilities, strict=True) if value >= THRESHOLD]
    best = np.argsort(-probabilities)[:topk]
    pixels = np.asarray(image)
    row = [
        datetime.now(UTC).isoformat(),
        file.filename,
        *(f"{value:.3f}" for value in (pixels.mean(), pixels.std(), pixels.min(), pixels.max())),
        ";".join(predicted),
        ";".join(f"{value:.6f}" for value in probabilities),
    ]
    # As it did with its bucket: fetch all, add a line, put all back.
    database.write_text(database.read_text() + ",".join(map(str, row)) + "\n")
    return {
        "predicted": predicted,
        "topk": [{"label": genres[number], "probability": float(probabilities[number])} for number in best],
    }
