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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from uuid import uuid4

from onesheet.errors import ConfigError, TrainingError
from onesheet.processes import end_with_parent

if TYPE_CHECKING:
    from onesheet.training.config import TrainConfig

_Result = TypeVar("_Result")

# Those that torch's launcher takes over, and does not give back.
_SIGNALS: Final = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)
]

# Machines of one job begin minutes apart: some are there later, or have more to download.
MEETING_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Machine:
    """One of several machines that train together, when nobody has started torchrun on them.

    Attributes:
        rank: Its number; 0 is the chief's, which the others ask.
        nodes: How many there are.
        address: Host name of the chief.
        port: Of the chief, free there.
    """

    rank: int
    nodes: int
    address: str
    port: int


def under_torchrun() -> bool:
    """Whether somebody else has started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Number of this process among those that train together, over all machines; 0 when it trains alone."""
    return int(os.environ["RANK"]) if under_torchrun() else 0


def processes(config: TrainConfig) -> int:
    """How many train together, over all machines."""
    return config.trainer.devices * config.trainer.nodes


def launch(work: Callable[[TrainConfig], _Result], config: TrainConfig, machine: Machine | None = None) -> _Result:
    """Call `work(config)` in as many processes as the configuration has devices.

    Args:
        work: A function of a module: it is called in new processes, and its result comes back.
        config: Of the run; its folder is settled.
        machine: This one, where several train together without torchrun; each of them calls this function.

    Returns:
        What the first process on this machine returned.

    Raises:
        TrainingError: A process failed; or what `work` raises.
        ConfigError: `torchrun` was told another number of processes, or nobody says where the other machines are.
        SystemExit: Interrupted.
    """
    if under_torchrun():
        started = int(os.environ["WORLD_SIZE"])
        if started != processes(config):
            raise ConfigError(f"torchrun started {started} processes, trainer.devices and trainer.nodes say otherwise")
        return work(config)
    if config.trainer.nodes > 1 and machine is None:
        raise ConfigError("trainer.nodes: several machines are started with torchrun, see docs/training.md")
    if processes(config) == 1:
        return work(config)
    _check_devices(config)

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    settings = LaunchConfig(
        min_nodes=config.trainer.nodes,
        max_nodes=config.trainer.nodes,
        nproc_per_node=config.trainer.devices,
        max_restarts=0,
        start_method="spawn",
        **_rendezvous(machine),
    )
    try:
        with _own_signals():
            results = elastic_launch(settings, _recorded)(work, config)
            return cast("_Result", results[min(results)])
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        told = failure.message["message"] if isinstance(failure.message, dict) else failure.message
        raise TrainingError(f"a process failed: {told}") from error


def _rendezvous(machine: Machine | None) -> dict[str, Any]:
    """Where the processes find each other."""
    if machine is None:
        return {"run_id": uuid4().hex, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    return {
        "run_id": "machines",  # the same on all of them
        "rdzv_backend": "static",
        "rdzv_endpoint": f"{machine.address}:{machine.port}",
        "rdzv_configs": {"rank": machine.rank, "timeout": MEETING_SECONDS},
    }


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
    end_with_parent()
    from torch.distributed.elastic.multiprocessing.errors import record

    return cast("_Result", record(work)(config))
