"""Several machines without a shared disk train one model: they agree where to begin, and end with the same files."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lightning.pytorch.callbacks import Callback
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from onesheet.training.launch import MEETING_SECONDS, Machine, launch
from onesheet.training.pretrained import require_pretrained
from onesheet.training.record import BEST
from onesheet.training.run import TrainingResult, check_same_run, checkpoint_to_resume, train_here, training_manifest

if TYPE_CHECKING:
    import lightning as L

    from onesheet.training.config import TrainConfig

_PLAN: Final = "onesheet/plan"


class Meeting:
    """Where the machines of a job agree on something before they train.

    It stays open while they do: torch's rendezvous uses the same server, by the same address.

    Args:
        machine: This one.

    Raises:
        RuntimeError: The chief does not answer within an hour.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._store = TCPStore(
            machine.address,
            machine.port,
            is_master=machine.rank == 0,
            timeout=timedelta(seconds=MEETING_SECONDS),
            wait_for_workers=False,
            multi_tenant=True,
        )

    def agree(self, plan: str | None, get_ready: Callable[[str], None]) -> str:
        """Do what the chief plans.

        Only it may look into the bucket for a checkpoint: what another machine finds there may be older or newer.

        Args:
            plan: The chief's; the others have none.
            get_ready: Called with the plan on the others. The chief waits until all are ready.

        Raises:
            RuntimeError: A machine does not answer within an hour.
        """
        others = [f"{_PLAN}/{rank}" for rank in range(1, self._machine.nodes)]
        if plan is not None:
            self._store.set(_PLAN, plan)
            self._store.wait(others)
            return plan
        plan = self._store.get(_PLAN).decode()
        get_ready(plan)
        self._store.set(f"{_PLAN}/{self._machine.rank}", "ready")
        return plan


def train_together(config: TrainConfig, machine: Machine) -> TrainingResult:
    """`train` on one of several machines.

    Args:
        config: Of the run, the same on all machines but for the folders.
        machine: This one.

    Raises:
        OnesheetError: As by `train`.
    """
    checkpoint = checkpoint_to_resume(config)
    if checkpoint is not None:
        from onesheet.training.checkpoint import load_checkpoint

        check_same_run(load_checkpoint(checkpoint).begun, config, training_manifest(config))
    elif config.model.pretrained:
        require_pretrained(config.model)
    return launch(_train_here, config, machine)


def _train_here(config: TrainConfig) -> TrainingResult:
    return train_here(config, callbacks=[_BestEverywhere(Path(config.run_dir))])


class _BestEverywhere(Callback):
    """Training expects the run's folder on a shared disk: here the chief sends round what all read at the end."""

    def __init__(self, run_dir: Path) -> None:
        self._best = run_dir / BEST

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        content = trainer.strategy.broadcast(self._best.read_bytes() if trainer.is_global_zero else b"")
        if trainer.local_rank == 0 and not trainer.is_global_zero:
            self._best.parent.mkdir(parents=True, exist_ok=True)
            self._best.write_bytes(content)
        trainer.strategy.barrier()
