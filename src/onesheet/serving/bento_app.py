"""What `bentoml serve onesheet.serving.bento_app:Onesheet` runs, with the settings of the environment."""

import os

from uvicorn.config import HTTP_PROTOCOLS, LOOP_FACTORIES

from onesheet.log import configure_logging
from onesheet.processes import end_with_parent
from onesheet.serving.bento import build_service
from onesheet.serving.bento_server import ARBITER_VARIABLE
from onesheet.settings import Settings

_arbiter = int(os.environ.get(ARBITER_VARIABLE, 0))
if _arbiter not in (0, os.getpid()):  # BentoML's parent process imports this as well
    end_with_parent(_arbiter)

# BentoML starts uvicorn as it comes: heads without bounds, and connections to whichever process wakes first.
HTTP_PROTOCOLS["auto"] = "onesheet.serving.protocol:BoundedHttpProtocol"
LOOP_FACTORIES["auto"] = "onesheet.serving.accepting:loop_factory"
_settings = Settings()
configure_logging(_settings.log_level, as_json=_settings.log_json)
Onesheet = build_service(_settings)
