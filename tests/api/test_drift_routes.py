"""What comparisons found, over HTTP."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from onesheet.predictionlog import DriftRun, DriftRuns, PredictionLog

pytestmark = pytest.mark.anyio
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def run(hours: float, verdict: str = "ok") -> DriftRun:
    result = {"verdict": verdict, "n": 250, "pictures": 200, "summary": "200 pictures look like the reference."}
    return DriftRun(uuid4(), NOON + timedelta(hours=hours), "tiny", "1.2.3", verdict, result, has_report=False)


@pytest.fixture
def runs(settings):
    with closing(PredictionLog(settings.log_url)) as log:
        log.migrate()
        yield DriftRuns(log)


async def test_nothing_was_compared_yet(runs, client):
    answer = await client.get("/drift")
    assert (answer.status_code, answer.json()) == (200, {"runs": [], "latest": None})


async def test_the_last_comparisons_are_told(runs, client):
    made = [run(0), run(24), run(48, "drift")]
    for number, one in enumerate(made):
        runs.add(one, b"<html>report</html>" if number else None)

    found = (await client.get("/drift", params={"limit": 2})).json()
    assert found["latest"] == made[2].result
    assert found["runs"] == [
        {
            "id": str(one.id),
            "time": one.time.isoformat().replace("+00:00", "Z"),
            "verdict": one.verdict,
            "n": 250,
            "pictures": 200,
            "summary": "200 pictures look like the reference.",
            "model": {"name": "tiny", "version": "1.2.3"},
            "has_report": True,
        }
        for one in (made[2], made[1])
    ]
    assert (await client.get("/drift", params={"limit": 0})).status_code == 422


async def test_a_report_is_a_page_that_can_do_nothing_but_show_itself(runs, client):
    with_report, without = run(0), run(1)
    runs.add(with_report, b"<html>report</html>")
    runs.add(without)

    page = await client.get(f"/drift/{with_report.id}/report")
    assert (page.status_code, page.content) == (200, b"<html>report</html>")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "sandbox allow-scripts" in policy
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy
    for unknown in (without.id, uuid4()):
        missing = await client.get(f"/drift/{unknown}/report")
        assert (missing.status_code, missing.json()["type"]) == (404, "/problems/unknown_drift_run")
    assert (await client.get("/drift/latest/report")).status_code == 422
