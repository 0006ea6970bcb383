"""What `bentoml serve onesheet.serving.bento_app:Onesheet` runs, with the settings of the environment."""

from onesheet.log import configure_logging
from onesheet.serving.bento import build_service
from onesheet.settings import Settings

_settings = Settings()
configure_logging(_settings.log_level, as_json=_settings.log_json)
Onesheet = build_service(_settings)
