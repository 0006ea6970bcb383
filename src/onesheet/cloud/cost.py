"""What something will cost, before it is started, from the list prices in `prices.yaml`.

What the table does not have (`_LEFT_OUT`) makes a bill lower or higher; and prices change: the table has a date.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from onesheet.cloud.config import Machine, Place, Service
from onesheet.configs import read_config
from onesheet.errors import ConfigError

_HOURS: Final = 730.0
_SECONDS: Final = _HOURS * 3600
_RUNS: Final = 30
_LEFT_OUT: Final = "free tiers, discounts, requests, traffic, metrics, logs and taxes"
# All six images of a version, compressed; a few versions of posters and some runs.
_IMAGES_GB: Final = 5.0
_BUCKET_GB: Final = 10.0
# Of the collector beside a service that has metrics.
_COLLECTOR_CPU, _COLLECTOR_GIB = 0.5, 0.25
_GIB: Final = {"Mi": 1 / 1024, "Gi": 1.0}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Vertex(_Strict):
    machines: dict[str, float]
    accelerators: dict[str, float]
    disk_gb_month: float


class _Seconds(_Strict):
    vcpu_second: float
    gib_second: float


class _RequestBased(_Seconds):
    idle_vcpu_second: float
    idle_gib_second: float


class _Run(_Strict):
    request_based: _RequestBased
    instance_based: _Seconds
    jobs: _Seconds


class _Build(_Strict):
    minute: dict[str, float]


class Prices(_Strict):
    """`prices.yaml`, in US dollars."""

    noted: date
    region: str
    sources: list[str]
    vertex: _Vertex
    run: _Run
    build: _Build
    storage_gb_month: float
    registry_gb_month: float
    secret_version_month: float
    scheduler_job_month: float
    regions: dict[str, float]


@dataclass(frozen=True, slots=True)
class Line:
    """What one part costs, in US dollars.

    Attributes:
        what: The part.
        least: With nothing to do; for a training, an hour of it.
        most: With all that the configuration allows.
    """

    what: str
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What something costs.

    Attributes:
        lines: Its parts.
        least: What `Line.least` is.
        most: What `Line.most` is.
        noted: Date of the prices.
        note: What they leave out.
    """

    lines: tuple[Line, ...]
    least: str
    most: str
    noted: date
    note: str

    @property
    def total(self) -> Line:
        """All parts together."""
        return Line("together", sum(one.least for one in self.lines), sum(one.most for one in self.lines))


def read_prices() -> Prices:
    """The shipped table.

    Raises:
        ConfigError: It is damaged.
    """
    return read_config(Path(__file__).with_name("prices.yaml"), Prices)


def of_training(
    place: Place, prices: Prices, machine: str, machines: int, trials: int = 1, parallel: int = 1
) -> Estimate:
    """A training, or a search of several.

    Args:
        place: Where.
        prices: The table.
        machine: A name in the file's `training.machines`.
        machines: How many one training has.
        trials: How many trainings.
        parallel: How many at a time.

    Raises:
        ConfigError: There is no such machine, or its price is not known.
    """
    if machine not in place.config.training.machines:
        raise ConfigError(f"no machine {machine}; there are {', '.join(place.config.training.machines)}")
    chosen = place.config.training.machines[machine]
    hour = _hour(prices, chosen) * machines * _factor(place, prices)
    hours = place.config.training.max_hours
    what = f"{machines} x {chosen.machine_type}" + (f" with {chosen.gpus} {chosen.accelerator}" if chosen.gpus else "")
    lines = (Line(what if trials == 1 else f"{trials} x {what}", hour * min(trials, parallel), hour * hours * trials),)
    return _estimate(place, prices, lines, "an hour", f"at most ({hours:g} hours each)")


def of_services(place: Place, prices: Prices, only: Sequence[str] = ()) -> Estimate:
    """A month of the services, and of all that goes with them unless only some are wanted.

    Raises:
        ConfigError: There is no such service.
    """
    names = only or list(place.config.services)
    for name in names:
        if name not in place.config.services:
            raise ConfigError(f"{name} is no service; there are {', '.join(place.config.services)}")
    factor = _factor(place, prices)
    lines = [_service(name, place.config.services[name], prices, factor) for name in names]
    if not only:
        lines += list(_beside(place, prices, factor))
    return _estimate(place, prices, tuple(lines), "a month at rest", "a month, all instances busy")


def of_build(place: Place, prices: Prices, machine: str, minutes: float) -> Estimate:
    """A build of all images.

    Args:
        place: Where.
        prices: The table.
        machine: Of Cloud Build.
        minutes: After which it is ended.
    """
    minute = prices.build.minute[machine]
    return _estimate(
        place, prices, (Line(machine, minute, minute * minutes),), "a minute", f"at most ({minutes:g} minutes)"
    )


def _hour(prices: Prices, machine: Machine) -> float:
    vertex = prices.vertex
    if machine.machine_type not in vertex.machines:
        raise ConfigError(f"the table of prices has no {machine.machine_type}")
    hour = vertex.machines[machine.machine_type] + vertex.disk_gb_month * machine.disk_gb / _HOURS
    if machine.accelerator:
        if machine.accelerator not in vertex.accelerators:
            raise ConfigError(f"the table of prices has no {machine.accelerator}")
        hour += vertex.accelerators[machine.accelerator] * machine.accelerators
    return hour


def _service(name: str, service: Service, prices: Prices, factor: float) -> Line:
    """With metrics it is paid for as long as it is there, else idle instances cost less."""
    cpu, gib = service.cpu, _gib(service.memory)
    if service.metrics:
        second = _second(prices.run.instance_based, cpu + _COLLECTOR_CPU, gib + _COLLECTOR_GIB)
        idle = second
    else:
        second = _second(prices.run.request_based, cpu, gib)
        idle = prices.run.request_based.idle_vcpu_second * cpu + prices.run.request_based.idle_gib_second * gib
    rest, busy = idle * service.min_instances, second * service.max_instances
    instances = f"{service.min_instances} to {service.max_instances} instances"
    return Line(f"service {name}, {instances}", rest * _SECONDS * factor, busy * _SECONDS * factor)


def _beside(place: Place, prices: Prices, factor: float) -> Iterator[Line]:
    job = place.config.drift_job
    second = _second(prices.run.jobs, job.cpu, _gib(job.memory)) * factor
    yield Line(
        "drift check, daily: a minute each, or all that it may take",
        *(second * 60 * _RUNS * minutes for minutes in (1, job.max_minutes)),
    )
    yield Line("its schedule", prices.scheduler_job_month, prices.scheduler_job_month)
    images = prices.registry_gb_month * _IMAGES_GB
    yield Line(f"images of 1 to {place.config.keep_images} versions", images, images * place.config.keep_images)
    yield Line(f"{_BUCKET_GB:g} GB in the bucket", *[prices.storage_gb_month * _BUCKET_GB] * 2)
    secrets = prices.secret_version_month * len(place.config.secrets)
    yield Line(f"{len(place.config.secrets)} secrets", secrets, secrets)


def _second(price: _Seconds, cpu: float, gib: float) -> float:
    return price.vcpu_second * cpu + price.gib_second * gib


def _gib(memory: str) -> float:
    return float(memory[:-2]) * _GIB[memory[-2:]]


def _factor(place: Place, prices: Prices) -> float:
    return prices.regions.get(place.region, 1.0)


def _estimate(place: Place, prices: Prices, lines: tuple[Line, ...], least: str, most: str) -> Estimate:
    note = f"US dollars, list prices noted on {prices.noted:%d %B %Y}, without {_LEFT_OUT}"
    if place.region not in prices.regions:
        note += f"; of {prices.region}, since the table does not have {place.region}"
    return Estimate(lines, least, most, prices.noted, note)
