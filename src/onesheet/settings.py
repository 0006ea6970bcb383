"""The one reader of the environment (prefix `ONESHEET_`) and of a `.env` file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of every command; a command's own options win over them."""

    model_config = SettingsConfigDict(env_prefix="ONESHEET_", env_file=".env", extra="ignore", frozen=True)

    bundle: str = Field("starter", description="Bundle to use: a folder, a .tar.gz, `starter` or a gs:// address.")
    precision: Literal["fp32", "int8"] = Field(
        "fp32", description="Graph of the bundle that answers; int8 is faster and a little less exact."
    )
    data_source: str = Field(
        "https://github.com/laxmimerit/Movies-Poster_Dataset",
        description="Where `onesheet data fetch` gets the posters when no source is named.",
    )
    host: str = Field("127.0.0.1", description="Address that the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the API; 0 takes any free one.")
    max_upload_bytes: int = Field(20 * 2**20, gt=0, description="Largest accepted request body, in bytes.")
    max_pixels: int = Field(25_000_000, gt=0, description="Largest accepted picture, in pixels.")
    threads: int | None = Field(None, ge=1, description="Worker threads; default: the cores this process may use.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="Least level that is logged.")
    log_json: bool = Field(False, description="One JSON object a line instead of coloured text.")
