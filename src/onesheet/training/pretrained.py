"""Whether pretrained weights can be had, told at once; without torch, so that "no" costs no time."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from huggingface_hub import constants

from onesheet.errors import TrainingError
from onesheet.training.config import ModelConfig

_PROBE_SECONDS = 1.5


def require_pretrained(config: ModelConfig) -> None:
    """Make sure that timm will find pretrained weights, or fail before its client retries for a minute.

    Where the hub is out of reach but the weights were downloaded before, the hub's client is told to stay offline.

    Raises:
        TrainingError: They are neither in a local file, nor within reach, nor in the cache.
    """
    if config.weights is not None:
        if not Path(config.weights).is_file():
            raise TrainingError(f"no file of weights at {config.weights} (model.weights)")
        return
    if not constants.HF_HUB_OFFLINE and _hub_is_reachable():
        return
    if not _is_cached(config.backbone):
        raise TrainingError(
            f"pretrained weights of {config.backbone} cannot be downloaded: {constants.ENDPOINT} is out of reach. "
            "Train from scratch with model.pretrained=false, or name a local file with model.weights=FILE"
        )
    constants.HF_HUB_OFFLINE = True


def _hub_is_reachable() -> bool:
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310  the hub's own address
    try:
        with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):  # noqa: S310
            return True
    except urllib.error.HTTPError:
        return True  # it answers; what it says of the weights is the client's business
    except OSError:
        return False


def _is_cached(backbone: str) -> bool:
    """Look where timm keeps the weights of `name` or `name.tag`: the hub's repository `timm/name.tag`."""
    repository = f"models--timm--{backbone}" + ("" if "." in backbone else ".*")
    return any(Path(constants.HF_HUB_CACHE).glob(f"{repository}/snapshots/*/*"))
