"""Word of a move to whoever verifies, deploys, or wants to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from onesheet.webhook import dispatch

if TYPE_CHECKING:
    from onesheet.registry.records import Move, Version
    from onesheet.settings import Settings

_EVENT: Final = "onesheet-registry"


def tell_of_move(settings: Settings, move: Move, version: Version) -> None:
    """POST a move to `registry_webhook`, if the settings name one; the move is done all the same.

    Raises:
        WebhookError: Nobody took it.
    """
    if settings.registry_webhook is None:
        return
    payload = {
        **move.model_dump(mode="json", include={"kind", "alias", "before", "after", "by", "reason"}),
        "model": {"name": version.lineage.model_name, "version": version.lineage.model_version},
    }
    dispatch("ONESHEET_REGISTRY_WEBHOOK", settings.registry_webhook, settings.registry_webhook_token, _EVENT, payload)
