"""What `bentoml serve onesheet.serving.bento_app:Onesheet` runs, with the settings of the environment."""

from uvicorn.config import HTTP_PROTOCOLS

from onesheet.log import configure_logging
from onesheet.serving.bento import build_service
from onesheet.settings import Settings

# BentoML starts uvicorn with no word on how heads are read; unbounded, they would be an invitation.
HTTP_PROTOCOLS["auto"] = "onesheet.serving.protocol:BoundedHttpProtocol"
_settings = Settings()
configure_logging(_settings.log_level, as_json=_settings.log_json)
Onesheet = build_service(_settings)
