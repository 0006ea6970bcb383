"""Where the time of a training step goes: Python's (cProfile, for snakeviz) or torch's (for TensorBoard)."""

from __future__ import annotations

import contextlib
import cProfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    import lightning as L

PROFILE_FOLDER: Final = "profile"
CPROFILE_FILE: Final = "train.prof"
TABLE_FILE: Final = "operators.txt"
# Batches that warm caches up, and are left out.
_WARMUP: Final = 3


@contextlib.contextmanager
def cprofiled(run_dir: Path) -> Iterator[None]:
    """Profile what happens inside; `snakeviz RUN_DIR/profile/train.prof` shows it."""
    folder = run_dir / PROFILE_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with cProfile.Profile() as profile:
        yield
    profile.dump_stats(folder / CPROFILE_FILE)


class TorchProfiler(Callback):
    """Record every operator of some steps: a trace for TensorBoard and Perfetto, and a table of the costliest.

    Args:
        run_dir: The trace goes to its folder `profile`.
        batches: How many batches to record, the first few left out.
    """

    def __init__(self, run_dir: Path, batches: int) -> None:
        self._folder = run_dir / PROFILE_FOLDER
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        warmup = min(_WARMUP, batches - 1)
        self._profiler = torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(wait=0, warmup=warmup, active=batches - warmup, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Begin."""
        self._profiler.start()

    def on_train_batch_end(self, *_: Any) -> None:
        """Tell steps apart."""
        self._profiler.step()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Write what there is."""
        self._profiler.stop()

    def _write(self, profiler: torch.profiler.profile) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        torch.profiler.tensorboard_trace_handler(str(self._folder))(profiler)
        averages = profiler.key_averages(group_by_input_shape=False)
        device = "device" if torch.cuda.is_available() else "cpu"
        (self._folder / TABLE_FILE).write_text(averages.table(sort_by=f"self_{device}_time_total", row_limit=30))
