"""One process or several: the same function runs in each.

`torchrun` and this launcher start processes that call a function. Lightning's own would run the whole command line
again in each of them, and so compose the configuration, and name the run's folder, more than once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeVar, cast
from uuid import uuid4

from onesheet.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from onesheet.training.config import TrainConfig

_Result = TypeVar("_Result")

# Those that torch's launcher takes over, and does not give back.
_SIGNALS: Final = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)
]


def under_torchrun() -> bool:
    """Whether somebody else has started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Number of this process among those that train together, over all machines; 0 when it trains alone."""
    return int(os.environ["RANK"]) if under_torchrun() else 0


def processes(config: TrainConfig) -> int:
    """How many train together, over all machines."""
    return config.trainer.devices * config.trainer.nodes


def launch(work: Callable[[TrainConfig], _Result], config: TrainConfig) -> _Result:
    """Call `work(config)` in as many processes as the configuration has devices.

    Args:
        work: A function of a module: it is called in new processes, and its result comes back.
        config: Of the run; its folder is settled.

    Returns:
        What the first process returned.

    Raises:
        TrainingError: A process failed; or what `work` raises.
        ConfigError: `torchrun` was told another number of processes.
        SystemExit: Interrupted.
    """
    if under_torchrun():
        started = int(os.environ["WORLD_SIZE"])
        if started != processes(config):
            raise ConfigError(f"torchrun started {started} processes, trainer.devices and trainer.nodes say otherwise")
        return work(config)
    if config.trainer.nodes > 1:
        raise ConfigError("trainer.nodes: several machines are started with torchrun, see docs/training.md")
    if config.trainer.devices == 1:
        return work(config)
    _check_devices(config)

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=config.trainer.devices,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="spawn",
    )
    try:
        with _own_signals():
            return cast("_Result", elastic_launch(settings, _recorded)(work, config)[0])
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        told = failure.message["message"] if isinstance(failure.message, dict) else failure.message
        raise TrainingError(f"a process failed: {told}") from error


def _check_devices(config: TrainConfig) -> None:
    import torch

    there = torch.cuda.device_count()
    on_gpus = config.trainer.accelerator in ("gpu", "cuda") or (config.trainer.accelerator == "auto" and there > 0)
    if on_gpus and there < config.trainer.devices:
        raise ConfigError(f"trainer.devices={config.trainer.devices}, but GPUs that can be used here: {there}")


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """End as Lightning does when a signal has ended the processes, and leave the handlers as they were."""
    from torch.distributed.elastic.multiprocessing import SignalException

    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    except SignalException as error:
        sys.exit(128 + error.sigval)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _recorded(work: Callable[[TrainConfig], _Result], config: TrainConfig) -> _Result:
    """Called in each process; `record` carries an exception's message back to the launcher."""
    from torch.distributed.elastic.multiprocessing.errors import record

    return cast("_Result", record(work)(config))
