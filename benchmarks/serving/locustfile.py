"""The student system's load: of four requests three ask for health and one for a poster's genres.

POSTERS=folder locust -f benchmarks/serving/locustfile.py --host http://127.0.0.1:8000 -u 200 -r 5 -t 2m
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import httpx
from locust import FastHttpUser, between, task


def form(path: Path) -> tuple[dict[str, str], bytes]:
    """Headers and body; made once, because the generator shares its cores with the service."""
    request = httpx.Request("POST", "http://service", files={"file": (path.name, path.read_bytes())})
    return {"Content-Type": request.headers["Content-Type"]}, request.read()


FORMS = itertools.cycle([form(path) for path in sorted(Path(os.environ["POSTERS"]).iterdir())[:64]])


class Visitor(FastHttpUser):
    """Looks whether the service is there, and now and then shows it a poster."""

    wait_time = between(0.2, 1)
    network_timeout = connection_timeout = 60.0

    @task(3)
    def health(self) -> None:
        """As a page does that shows whether all is well."""
        self.client.get("/health")

    @task(1)
    def predict(self) -> None:
        """A refusal is an answer too, and is counted under a name of its own."""
        headers, body = next(FORMS)
        with self.client.post("/predict", data=body, headers=headers, catch_response=True) as answer:
            if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and "Retry-After" in answer.headers:
                answer.request_meta["name"] = "/predict refused"
                answer.success()
