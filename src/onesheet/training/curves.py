"""The curves of a run by epoch, as a table without gaps, for programs that plot runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from lightning.pytorch.callbacks import Callback

from onesheet.files import write_whole
from onesheet.training.record import CURVES_FILE, as_numbers

if TYPE_CHECKING:
    import lightning as L

_SERIES: Final = {
    "train/loss": "train/loss_epoch",
    **{name: name for name in ("val/loss", "val/map_macro", "val/f1_macro", "val/f1_micro")},
}


class Curves(Callback):
    """Writes one line an epoch; a resumed run goes on after its last whole epoch.

    Args:
        run_dir: Gets the file.
    """

    def __init__(self, run_dir: Path) -> None:
        self._file = run_dir / CURVES_FILE

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Add the epoch."""
        if not trainer.is_global_zero:
            return
        measured = as_numbers(trainer.callback_metrics)
        figures = [trainer.current_epoch + 1, *(measured[name] for name in _SERIES.values())]
        lines = [*self._earlier(trainer.current_epoch), ",".join(map(str, figures))]
        write_whole(self._file, "\n".join(lines) + "\n")

    def _earlier(self, epochs: int) -> list[str]:
        """The head and the lines of so many epochs, as far as they are known."""
        if not epochs or not self._file.exists():
            return [",".join(["epoch", *_SERIES])]
        return self._file.read_text().splitlines()[: epochs + 1]
