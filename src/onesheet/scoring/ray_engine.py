"""The same work on a cluster: Ray Data moves rows to workers and tables back, and is all the scheduler there is."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

from onesheet.errors import ConfigError, OnesheetError, reason
from onesheet.scoring.parts import PART_ROWS
from onesheet.scoring.rows import Row, Source
from onesheet.scoring.scorer import Scorer, threads_for

if TYPE_CHECKING:
    import pyarrow as pa

    from onesheet.scoring.catalogue import Engine

_ROUND_BLOCKS: Final = 2048
"""Blocks that Ray is given at a time, a million rows: what it has to know of them stays in bounds."""
_ROWS: Final = "rows"
_FAILURE: Final = "failure"

_Arguments: TypeAlias = tuple[partial[Scorer], bool]


class _Worker:
    """What a process of the cluster does: load the model once, then answer blocks."""

    def __init__(self, make_scorer: partial[Scorer], remote: bool) -> None:
        self._scorer = make_scorer()
        self._threads = threads_for(remote=True) if remote else 1

    def __call__(self, block: pa.Table) -> pa.Table:
        import pyarrow as pa

        # Ray hands over what the client of this very cluster has pickled.
        rows = [row for packed in block[_ROWS] for row in pickle.loads(packed.as_py())]  # noqa: S301
        try:
            return pa.concat_tables(self._scorer.score(rows, self._threads))
        except OnesheetError as error:  # of one that is raised here, Ray hands on no more than its words
            return pa.table({_FAILURE: [pickle.dumps(error)]})


@contextmanager
def ray_engine(
    make_scorer: partial[Scorer], source: Source, *, workers: int | None, address: str | None
) -> Iterator[Engine]:
    """Start Ray here, or join a cluster.

    Args:
        make_scorer: Makes what answers; sent to each worker, with the bundle in it.
        source: Of the rows.
        workers: Processes; default: the cores of the cluster.
        address: Of a cluster, `auto` or `ray://HOST:PORT`; default: one of this machine's, as long as this lasts.

    Raises:
        ConfigError: There is no cluster, or it ended; or the source cannot be shared.
        OnesheetError: As `Scorer.score`.
    """
    if not source.is_shareable:
        raise ConfigError("only one process can read a packed tar: unpack it to .tar, or use --engine local")
    # Nothing phones home; and under `uv run` Ray would build an environment of its own on each worker.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    import ray
    import ray.data

    # What it has to say of its work is in its own log; what goes wrong comes as an error.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)

    here = {"num_cpus": workers, "include_dashboard": False} if address is None else {"address": address}
    try:
        ray.init(**here, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster at {address or 'this machine'}: {error} (one with a token wants RAY_AUTH_MODE=token)"
        ) from error
    try:
        count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
        yield partial(_score, worker=(make_scorer, source.is_remote), count=count)
    except ray.exceptions.RayError as error:
        raise ConfigError(f"the Ray cluster failed: {reason(error)}; what is done is kept") from error
    finally:
        ray.shutdown()


def _score(rows: Iterable[Row], worker: _Arguments, count: int) -> Iterator[pa.Table]:
    remaining = iter(rows)
    while blocks := list(islice(_blocks(remaining), _ROUND_BLOCKS)):
        yield from _score_blocks(blocks, worker, count)


def _blocks(rows: Iterator[Row]) -> Iterator[dict[str, bytes]]:
    while block := list(islice(rows, PART_ROWS)):
        yield {_ROWS: pickle.dumps(block)}


def _score_blocks(blocks: list[dict[str, bytes]], worker: _Arguments, count: int) -> Iterator[pa.Table]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    scored = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
        _Worker,
        fn_constructor_args=worker,
        batch_size=1,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=min(count, len(blocks))),
        num_cpus=1,
    )
    tables: Iterator[pa.Table] = iter(scored.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
    for table in tables:
        if _FAILURE in table.column_names:
            raise pickle.loads(table[_FAILURE][0].as_py())  # noqa: S301
        yield table
