"""What the web page asks of the API, and its errors in words for people who look at a page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

import httpx

from onesheet.errors import ApiError, ApiUnavailableError

_SECONDS: Final = 30.0
_CONNECT_SECONDS: Final = 2.0
# A service that has too much to do says when to come again; a person waits for so long and no longer.
_PATIENCE_SECONDS: Final = 20.0

_WHAT_TO_DO: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "The API wants a key; whoever runs this page sets it as ONESHEET_API_KEY.",
    HTTPStatus.FORBIDDEN: "The API does not allow that.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The picture is too large; try a smaller one.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "This API takes no links; save the picture and drop the file instead.",
    HTTPStatus.TOO_MANY_REQUESTS: "Those were too many requests; wait a minute and try again.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The API has too much to do, or no model yet; try again in a moment.",
}

# These are about the moment and not about what was asked.
_OF_NOW: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT})


class ApiClient:
    """The HTTP API of a running service; safe to share between threads.

    Args:
        url: Its address, without a path.
        key: API key, where it wants one.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        headers = {"X-API-Key": key} if key else {}
        timeout = httpx.Timeout(_SECONDS, connect=_CONNECT_SECONDS)
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)

    def predict(self, name: str, data: bytes, genres: int) -> dict[str, Any]:
        """The answer of `POST /predict`, with all genres in `topk`.

        Args:
            name: Of the file.
            data: The encoded picture.
            genres: How many the model knows.
        """
        return self._ask("POST", "/predict", params={"topk": genres}, files={"file": (name, data)})

    def predict_link(self, link: str, genres: int) -> dict[str, Any]:
        """The same for a picture at an https address."""
        return self._ask("POST", "/predict", params={"topk": genres}, json={"image_url": link})

    def explain(self, data: bytes) -> list[dict[str, Any]]:
        """`explanations` of `POST /explain`, of all genres."""
        return list(self._ask("POST", "/explain", files={"file": data})["explanations"])

    def similar(self, data: bytes, count: int) -> list[dict[str, Any]]:
        """`similar` of `POST /similar`."""
        return list(self._ask("POST", "/similar", params={"k": count}, files={"file": data})["similar"])

    def send_feedback(self, prediction_id: UUID | str, genres: Sequence[str]) -> None:
        """Say what an answer should have been."""
        self._ask("POST", "/feedback", json={"prediction_id": str(prediction_id), "genres": list(genres)})

    def model(self) -> dict[str, Any]:
        """`GET /model`."""
        return self._ask("GET", "/model")

    def card(self) -> str:
        """`GET /model/card`, Markdown."""
        return self._send("GET", "/model/card").text

    def activity(self, hours: float, buckets: int) -> dict[str, Any]:
        """`GET /activity`."""
        return self._ask("GET", "/activity", params={"hours": hours, "buckets": buckets})

    def drift(self, limit: int) -> dict[str, Any]:
        """`GET /drift`."""
        return self._ask("GET", "/drift", params={"limit": limit})

    def drift_report(self, run_id: UUID | str) -> bytes:
        """`GET /drift/{run_id}/report`, HTML."""
        return self._send("GET", f"/drift/{run_id}/report").content

    def check_ready(self) -> None:
        """Whether the model answers.

        Raises:
            ApiError: It does not; the message says why.
        """
        self._send("GET", "/readyz", patience=0)

    def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._send(method, path, **options).json()
        return answer

    def _send(self, method: str, path: str, patience: float = _PATIENCE_SECONDS, **options: Any) -> httpx.Response:
        """Ask, and come again when the service says so.

        Raises:
            ApiUnavailableError: It is away, or has too much to do for too long.
            ApiError: It refuses.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                response = self._http.request(method, path, **options)
            except httpx.TimeoutException as error:
                raise ApiUnavailableError(
                    f"The API at {self.url} takes too long to answer; try again in a moment."
                ) from error
            except httpx.HTTPError as error:
                raise ApiUnavailableError(
                    f"The API at {self.url} cannot be reached. This page goes on by itself as soon as it is back."
                ) from error
            if response.is_success:
                return response
            wait = _retry_after(response)
            if response.status_code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() + wait > deadline:
                raise _error(response)
            time.sleep(wait)


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else 1.0


def _error(response: httpx.Response) -> ApiError:
    passing = response.is_server_error or response.status_code in _OF_NOW
    return (ApiUnavailableError if passing else ApiError)(_sentence(response))


def _sentence(response: httpx.Response) -> str:
    """What happened, and what to do; of a picture that cannot be read the API's own words are enough."""
    try:
        detail = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"the API answered with status {response.status_code}"
    said = f"{detail[:1].upper()}{detail[1:].rstrip('.')}."
    advice = _WHAT_TO_DO.get(response.status_code)
    return f"{said} {advice}" if advice else said
