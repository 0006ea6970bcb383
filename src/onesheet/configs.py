"""Where the shipped configuration lies, and how a file of it is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from onesheet.errors import ConfigError, reason

if TYPE_CHECKING:
    from pydantic import BaseModel

_Model = TypeVar("_Model", bound="BaseModel")


def default_config_dir() -> Path:
    """Inside the package, or in the checkout that it runs from."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"


def read_config(path: Path, model: type[_Model]) -> _Model:
    """Read a YAML file.

    Args:
        path: Of the file.
        model: What has to be in it.

    Raises:
        ConfigError: It is missing, or says something else.
    """
    import yaml
    from pydantic import ValidationError

    try:
        return model.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {reason(error)}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where or 'content'}: {first['msg']}") from error
