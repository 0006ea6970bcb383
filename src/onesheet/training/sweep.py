"""`onesheet sweep`: many runs over a search space, here with Optuna or as a sweep of Weights & Biases."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from onesheet.configs import read_config
from onesheet.errors import ConfigError, OnesheetError, reason
from onesheet.predictor import usable_cores
from onesheet.processes import end_with_parent
from onesheet.training.compose import compose_config
from onesheet.training.searchspace import SearchSpace

if TYPE_CHECKING:
    import lightning as L
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

_HEARTBEAT_SECONDS: Final = 30
_STALE_SECONDS: Final = 120
_POLL_SECONDS: Final = 0.5
_SQLITE: Final = "sqlite:///"
_DONE: Final = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True, slots=True)
class Sweep:
    """What to search, and how.

    Attributes:
        name: Of the study in the store.
        space: The search space file.
        store: SQLAlchemy address of the study; several workers, also on several machines, share it.
        out: Folder of the trials' runs.
        overrides: Hydra overrides of every trial.
        trials: How many there shall be in the store, those of earlier calls included.
        workers: Processes here.
        seed: Of the search.
    """

    name: str
    space: Path
    store: str
    out: Path
    overrides: tuple[str, ...] = ()
    trials: int = 20
    workers: int = 1
    seed: int = 42


def run_sweep(sweep: Sweep, on_trial: Callable[[int, int], None] | None = None) -> optuna.Study:
    """Search until the store holds enough trials.

    Args:
        sweep: What to search.
        on_trial: Called with (done, total) as trials end.

    Returns:
        The study, with everything that was tried.

    Raises:
        ConfigError: The search space or an override is wrong; no trial could be run.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = read_config(sweep.space, SearchSpace)
    _check(space, sweep)
    study = _open_study(sweep, space)
    missing = sweep.trials - len(study.get_trials(states=_DONE, deepcopy=False))
    shares = [share for share in _shares(max(0, missing), sweep.workers) if share]
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_work, args=(sweep, share, number, len(shares))) for number, share in enumerate(shares)
    ]
    for worker in workers:
        worker.start()
    try:
        while any(worker.is_alive() for worker in workers):
            workers[0].join(_POLL_SECONDS)
            if on_trial:
                on_trial(len(study.get_trials(states=_DONE, deepcopy=False)), sweep.trials)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    if not study.get_trials(states=_DONE, deepcopy=False):
        reasons = list(failures(study).values())
        raise ConfigError(f"no trial succeeded; the last one said: {reasons[-1] if reasons else 'nothing'}")
    return study


def failures(study: optuna.Study) -> dict[int, str]:
    """Trials that failed, by number, with the reason; they count as if they had never been tried."""
    failed: list[FrozenTrial] = study.get_trials(states=(TrialState.FAIL,), deepcopy=False)
    return {trial.number: trial.user_attrs.get("failure", "its worker was killed") for trial in failed}


def create_wandb_sweep(space: SearchSpace, overrides: Sequence[str], project: str, entity: str | None) -> str:
    """Create the sweep at Weights & Biases.

    Returns:
        Its id, which `wandb agent` takes.
    """
    import wandb

    command = ["onesheet", "train", "logger=[wandb,csv]", *overrides]
    return str(wandb.sweep(space.document(command), project=project, entity=entity))


def open_store(address: str) -> RDBStorage:
    """Open a store of studies. A trial whose worker was killed is noticed by its silence, and tried again.

    Raises:
        ConfigError: It is out of reach, or no database.
    """
    if address.startswith(_SQLITE):
        Path(address.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return RDBStorage(
                address,
                engine_kwargs={"connect_args": {"timeout": 60}} if address.startswith(_SQLITE) else None,
                heartbeat_interval=_HEARTBEAT_SECONDS,
                grace_period=_STALE_SECONDS,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=2),
            )
    except Exception as error:
        raise ConfigError(f"the store {address} cannot be used: {reason(error)}") from error


def _open_study(sweep: Sweep, space: SearchSpace) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        study_name=sweep.name,
        storage=open_store(sweep.store),
        sampler=_sampler(space, sweep.seed),
        pruner=_pruner(space),
        direction=space.metric.goal,
        load_if_exists=True,
    )


def _sampler(space: SearchSpace, seed: int) -> BaseSampler:
    match space.method:
        case "bayes":
            return optuna.samplers.TPESampler(seed=seed)
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
        case _:
            return optuna.samplers.GridSampler(space.grid(), seed=seed)


def _pruner(space: SearchSpace) -> BasePruner:
    if space.early_terminate is None:
        return optuna.pruners.NopPruner()
    return optuna.pruners.HyperbandPruner(
        min_resource=space.early_terminate.min_iter, reduction_factor=space.early_terminate.eta
    )


def _check(space: SearchSpace, sweep: Sweep) -> None:
    """Compose one trial's configuration now: a wrong key shall not fail twenty trials."""
    sample = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    compose_config([*sweep.overrides, *space.suggest(sample)])


def _work(sweep: Sweep, trials: int, number: int, workers: int) -> None:
    """One worker process: its share of the trials, on its share of the cores, or on a GPU of its own."""
    end_with_parent()
    import torch

    torch.set_num_threads(max(1, usable_cores() // workers))
    if devices := torch.cuda.device_count():
        os.environ["CUDA_VISIBLE_DEVICES"] = str(number % devices)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    space = read_config(sweep.space, SearchSpace)
    study = _open_study(Sweep(**{**_fields(sweep), "seed": sweep.seed + number}), space)
    study.optimize(lambda trial: _run_trial(trial, sweep, space), n_trials=trials, catch=(OnesheetError, RuntimeError))


def _run_trial(trial: optuna.Trial, sweep: Sweep, space: SearchSpace) -> float:
    from onesheet.training.run import train

    name = f"{sweep.name}-{trial.number:04d}"
    run_dir = sweep.out / name
    trial.set_user_attr("run_dir", str(run_dir))
    usual = ["logger.pictures_every=0"]  # of so many runs nobody looks at them all
    fixed = [f"name={name}", f"run_dir={run_dir}", "trainer.progress=false"]
    try:
        config = compose_config([*usual, *sweep.overrides, *space.suggest(trial), *fixed])
        watch = _watcher(trial, space.metric.name)
        train(config, callbacks=[watch])
    except (OnesheetError, RuntimeError) as error:
        trial.set_user_attr("failure", reason(error))
        raise
    return float(watch.best)


def _watcher(trial: optuna.Trial, metric: str) -> Any:
    """A Lightning callback that tells the study how a trial is doing, and gives up when the study says so."""
    from lightning.pytorch.callbacks import Callback

    class Watcher(Callback):
        best = math.nan

        def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
            if metric not in trainer.callback_metrics:
                raise ConfigError(f"no metric `{metric}`; there are: {', '.join(sorted(trainer.callback_metrics))}")
            value = float(trainer.callback_metrics[metric])
            better = max if trial.study.direction is optuna.study.StudyDirection.MAXIMIZE else min
            self.best = value if math.isnan(self.best) else better(self.best, value)
            trial.report(value, trainer.current_epoch + 1)
            if trial.should_prune():
                raise optuna.TrialPruned

    return Watcher()


def _shares(count: int, workers: int) -> list[int]:
    return [count // workers + (number < count % workers) for number in range(workers)]


def _fields(sweep: Sweep) -> dict[str, Any]:
    return {name: getattr(sweep, name) for name in Sweep.__slots__}
