"""The search space of a sweep, in the schema of Weights & Biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from onesheet.errors import ConfigError

if TYPE_CHECKING:
    from optuna import Trial

Value = bool | int | float | str


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Metric(_Strict):
    """What is searched for."""

    name: str = "val/map_macro"
    goal: Literal["maximize", "minimize"] = "maximize"


class Parameter(_Strict):
    """One key of the training configuration and the values that it may take.

    Without `distribution` it follows from the other fields, as Weights & Biases has it.
    """

    distribution: Literal["constant", "categorical", "uniform", "int_uniform", "log_uniform_values"] | None = None
    value: Value | None = None
    values: tuple[Value, ...] | None = None
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> Parameter:
        ranged = self.min is not None and self.max is not None
        wanted = {"constant": self.value is not None, "categorical": bool(self.values)}
        if not wanted.get(self.kind, ranged):
            raise ValueError("needs `value`, or `values`, or `min` and `max`")
        if ranged and not self.min < self.max:  # type: ignore[operator]  # both are numbers here
            raise ValueError("`min` must be below `max`")
        if self.kind == "log_uniform_values" and self.min is not None and self.min <= 0:
            raise ValueError("`min` of a logarithmic range must be above 0")
        return self

    @property
    def kind(self) -> str:
        """The distribution, also where it was left to the other fields."""
        if self.distribution is not None:
            return self.distribution
        if self.values is not None:
            return "categorical"
        if self.min is None:
            return "constant"
        return "int_uniform" if self._is_whole() else "uniform"

    def suggest(self, trial: Trial, name: str) -> Value:
        """A value for a trial."""
        match self.kind:
            case "constant":
                return self.value  # type: ignore[return-value]  # checked above
            case "categorical":
                return trial.suggest_categorical(name, self.values)  # type: ignore[arg-type, return-value]
            case "int_uniform":
                return trial.suggest_int(name, int(self.min), int(self.max))  # type: ignore[arg-type]
            case kind:
                return trial.suggest_float(name, self.min, self.max, log=kind != "uniform")  # type: ignore[arg-type]

    def _is_whole(self) -> bool:
        return float(self.min or 0).is_integer() and float(self.max or 0).is_integer()


class EarlyTerminate(_Strict):
    """Hyperband (Li et al., 2018): trials that lag behind are given up."""

    type: Literal["hyperband"]
    min_iter: int = 3
    eta: int = 3


class SearchSpace(BaseModel):
    """The content of `sweep.yaml`; what only Weights & Biases understands is passed on to it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    method: Literal["bayes", "random", "grid"]
    metric: Metric = Metric()
    parameters: dict[str, Parameter]
    early_terminate: EarlyTerminate | None = None

    def suggest(self, trial: Trial) -> list[str]:
        """Hydra overrides for a trial."""
        return [f"{name}={parameter.suggest(trial, name)}" for name, parameter in self.parameters.items()]

    def grid(self) -> dict[str, list[Value]]:
        """Every value of every parameter.

        Raises:
            ConfigError: A parameter is a range, not a list.
        """
        for name, parameter in self.parameters.items():
            if parameter.kind not in {"constant", "categorical"}:
                raise ConfigError(f"{name}: a grid needs `values`, not a range")
        return {name: list(parameter.values) for name, parameter in self.parameters.items() if parameter.values}

    def document(self, command: list[str]) -> dict[str, Any]:
        """What Weights & Biases wants to create a sweep whose agents run `command` with Hydra overrides."""
        kept = self.model_dump(mode="json", exclude_none=True)
        return {**kept, "command": ["${env}", *command, "${args_no_hyphens}"]}
