"""A checkpoint back to a network, without unpickling."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from onesheet.errors import CheckpointError
from onesheet.training.config import ModelConfig
from onesheet.training.network import PosterNet

# Under this key a checkpoint of `onesheet pretrain` says where it comes from.
PRETRAINING: Final = "pretraining"

_PREFIX: Final = "network."
_DAMAGED: Final = (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError, OSError)


@dataclass(frozen=True, slots=True)
class Begun:
    """The run that a checkpoint belongs to.

    Attributes:
        fingerprint: Of its manifest.
        model: Its configuration.
        epoch: Epochs it was trained for.
    """

    fingerprint: str
    model: ModelConfig
    epoch: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained network and where it comes from.

    Attributes:
        network: In evaluation mode, on the CPU, with averaged weights where training averaged.
        model: Its configuration.
        provenance: What `training.run` wrote down: name, genres, data fingerprint, commit.
        epoch: Epochs it was trained for.
    """

    network: PosterNet
    model: ModelConfig
    provenance: dict[str, Any]
    epoch: int

    @property
    def begun(self) -> Begun:
        """The run that it belongs to."""
        return Begun(self.provenance["fingerprint"], self.model, self.epoch)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of `onesheet train`; plain tensors and values only.

    Raises:
        CheckpointError: It is missing, damaged, or not one of ours.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        provenance = content["provenance"]
        model = ModelConfig(**provenance["model"])
        network = PosterNet(model, len(provenance["genres"]), pretrained=False)
        network.load_state_dict({name.removeprefix(_PREFIX): value for name, value in content["state_dict"].items()})
    except _DAMAGED as error:
        raise CheckpointError(f"{path.name} is no checkpoint of `onesheet train`") from error
    return Checkpoint(network.eval(), model, provenance, int(content["epoch"]) + 1)


def read_pretraining(path: Path) -> Begun:
    """The run that a checkpoint of `onesheet pretrain` belongs to.

    Raises:
        CheckpointError: It is damaged, or none of those.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        origin = content[PRETRAINING]
        return Begun(origin["fingerprint"], ModelConfig(**origin["model"]), int(content["epoch"]) + 1)
    except _DAMAGED as error:
        raise CheckpointError(f"{path.name} is no checkpoint of `onesheet pretrain`") from error
