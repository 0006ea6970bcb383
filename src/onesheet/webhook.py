"""Word to whoever acts on it: GitHub's `repository_dispatch`, which starts a workflow, or any taker of a POST."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import httpx

from onesheet.errors import WebhookError

if TYPE_CHECKING:
    from pydantic import SecretStr

_TIMEOUT_SECONDS: Final = 10.0
_WAITS_SECONDS: Final = (1.0, 5.0)


def dispatch(setting: str, url: str, token: SecretStr | None, event: str, payload: Mapping[str, Any]) -> None:
    """POST an event, three times if need be; the body is GitHub's, and other receivers find the same in it.

    Args:
        setting: What names the address, for the error.
        url: The address.
        token: Bearer token.
        event: Its type.
        payload: JSON; GitHub takes ten keys at most.

    Raises:
        WebhookError: Nobody took it.
    """
    headers = {"Accept": "application/vnd.github+json"}
    if token:
        headers["Authorization"] = f"Bearer {token.get_secret_value()}"
    body = {"event_type": event, "client_payload": payload}
    problem = ""
    for wait in (0.0, *_WAITS_SECONDS):
        time.sleep(wait)
        try:
            answer = httpx.post(url, json=body, headers=headers, timeout=_TIMEOUT_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = f"it cannot be reached ({type(error).__name__})"
            continue
        if answer.is_success:
            return
        problem = f"it answers with status {answer.status_code}"
        if answer.is_client_error:
            break
    raise WebhookError(f"{setting} was not told: {problem}")
