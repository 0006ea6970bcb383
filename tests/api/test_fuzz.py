"""Ten thousand pictures that something happened to, and requests of every shape: nothing is the server's fault."""

from __future__ import annotations

import io
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from onesheet.predictionlog import PredictionLog
from onesheet.serving import create_app
from onesheet.serving.guard import digest
from tests.processes import run_command

IN_PROCESS, OVER_HTTP = 9_500, 500
GROWTH = 150e6  # bytes
SECONDS = 2.0  # of a core
OPERATOR = "secret"


@pytest.fixture(scope="module")
def seeds(posters) -> list[bytes]:
    """Real posters in every format that is accepted, and some that are not."""
    encoded = []
    for path in sorted((posters / "Images").glob("*.jpg"))[:24]:
        encoded.append(path.read_bytes())
        with Image.open(path) as picture:
            small = picture.convert("RGB").resize((90, 135))
            for options in (
                {"format": "PNG"},
                {"format": "WEBP"},
                {"format": "GIF"},
                {"format": "JPEG", "progressive": True},
                {"format": "TIFF"},
                {"format": "BMP"},
            ):
                sink = io.BytesIO()
                small.save(sink, **options)
                encoded.append(sink.getvalue())
    return encoded


def mutated(seeds: list[bytes], random: np.random.Generator) -> bytes:
    """One picture with one to four things wrong with it."""
    data = bytearray(seeds[random.integers(len(seeds))])
    for _ in range(random.integers(1, 5)):
        size = max(1, len(data))
        at = int(random.integers(min(size, 400) if random.random() < 0.5 else size))  # headers are the fragile part
        length = int(random.integers(1, 64))
        match random.integers(7):
            case 0:
                data[at : at + 1] = bytes([int(random.integers(256))])
            case 1:
                data[at : at + length] = random.bytes(length)
            case 2:
                del data[at:]
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length] * int(random.integers(1, 20))
            case 5:
                data[at : at + 4] = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0"][random.integers(3)]
            case _:
                other = seeds[random.integers(len(seeds))]
                data[at:] = other[int(random.integers(len(other))) :]
    return bytes(data)


@pytest.fixture(scope="module")
def pictures(seeds) -> list[bytes]:
    """Those that the application is given; the ones that a server gets follow them."""
    random = np.random.default_rng(7)
    return [mutated(seeds, random) for _ in range(IN_PROCESS + OVER_HTTP)]


@pytest.mark.posters
@pytest.mark.slow
@pytest.mark.anyio
async def test_nothing_that_can_happen_to_a_picture_is_the_applications_fault(settings, predictor, connect, pictures):
    settings = settings.model_copy(update={"max_upload_bytes": 2_000_000})
    app, process = create_app(settings, predictor), psutil.Process()
    answered: Counter[int] = Counter()
    slowest, before = 0.0, 0
    async with app.router.lifespan_context(app), connect(app) as client:
        for number, data in enumerate(pictures[:IN_PROCESS]):
            began = time.process_time()
            answer = await client.post("/predict", files={"file": data})
            slowest = max(slowest, time.process_time() - began)
            answered[answer.status_code] += 1
            assert answer.status_code in (200, 400, 413, 415, 422), (number, answer.text)
            if number == 1000:
                before = process.memory_info().rss
    assert answered[200] > 500
    assert answered[400] > 500
    assert slowest < SECONDS
    assert process.memory_info().rss - before < GROWTH
    with closing(PredictionLog(settings.log_url)) as log:
        assert log.count() == answered[200]


@pytest.mark.posters
@pytest.mark.slow
def test_nothing_that_can_happen_to_a_picture_is_the_servers_fault(serving, pictures):
    server = serving(MAX_UPLOAD_BYTES="2000000")
    with httpx.Client(base_url=server.url) as client:
        answers = [client.post("/predict", files={"file": data}) for data in pictures[IN_PROCESS:]]
        assert client.get("/readyz").status_code == 200
    answered = Counter(answer.status_code for answer in answers)
    assert answered.keys() <= {200, 400, 413, 415, 422}
    assert min(answered[200], answered[400]) > 30
    assert len(server.logged()) == answered[200]
    assert server.mistakes() == []


@pytest.mark.slow
@pytest.mark.parametrize(("key", "examples"), [("", 5), ("a-key", 50)])
def test_schemathesis_finds_nothing(serving, tmp_path, key, examples):
    """What the document says is what the service does, for requests as it describes them and for others.

    With a key everything is asked that is asked without, and whether the key is needed.
    """
    server = serving(ALLOW_IMAGE_URL="true", ADMIN_TOKEN=OPERATOR, API_KEYS=digest(key) if key else "")
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"),
        *("--max-examples", str(examples), "--seed", "1", "--request-timeout", "10", "--warnings", "off"),
        # No schema can say which bytes are a picture, or which places hold a bundle.
        *("--exclude-checks", "positive_data_acceptance"),
        *("--header", f"Authorization: Bearer {OPERATOR}", *(["--header", f"X-API-Key: {key}"] if key else [])),
    ]
    found = run_command(command, cwd=tmp_path)
    assert found.returncode == 0, found.stdout
    assert "15 selected / 15 total" in found.stdout
    assert server.mistakes() == []
