"""The document that clients are generated from, and what importing the package costs."""

from __future__ import annotations

import sys

import pytest

from onesheet.serving.context import PROBES
from tests.processes import run_command

pytestmark = pytest.mark.anyio


@pytest.fixture
async def document(client):
    return (await client.get("/openapi.json")).json()


async def test_the_docs_page_is_there(client):
    assert "swagger" in (await client.get("/docs")).text


async def test_every_error_of_predict_is_documented_as_a_problem(document):
    responses = document["paths"]["/predict"]["post"]["responses"]

    assert set(responses) == {"200", "400", "401", "408", "413", "415", "422", "429", "500", "503"}
    for status in set(responses) - {"200"}:
        content = responses[status]["content"]
        assert list(content) == ["application/problem+json"]
        problem = content["application/problem+json"]
        assert problem["schema"] == {"$ref": "#/components/schemas/Problem"}
        for code, example in problem["examples"].items():
            assert example["value"]["type"] == f"/problems/{code}"
            assert example["value"]["status"] == int(status)
    assert set(document["components"]["schemas"]["Problem"]["properties"]) == {
        "type",
        "title",
        "status",
        "detail",
        "instance",
    }
    assert "HTTPValidationError" not in document["components"]["schemas"]


async def test_what_the_middleware_does_is_documented_for_every_route(document):
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            told = set(operation["responses"])
            assert path in PROBES or told >= {"401", "429"}, path
            assert method == "get" or told >= {"408", "413"}, path
    assert document["paths"]["/model"]["get"]["security"] == [{}, {"APIKey": []}, {"APIKeyAsBearer": []}]
    assert document["paths"]["/admin/model"]["post"]["security"] == [{"HTTPBearer": []}]
    assert "security" not in document["paths"]["/livez"]["get"]
    assert set(document["components"]["securitySchemes"]) == {"APIKey", "APIKeyAsBearer", "HTTPBearer"}


async def test_the_request_and_the_answer_are_documented(document):
    operation = document["paths"]["/predict"]["post"]

    assert operation["operationId"] == "predict"
    assert {parameter["name"] for parameter in operation["parameters"]} == {"threshold", "topk"}
    assert list(operation["requestBody"]["content"]) == ["multipart/form-data", "application/json"]
    answer = document["components"]["schemas"]["PredictAnswer"]
    assert list(answer["properties"]) == ["prediction_id", "predicted", "topk", "threshold", "model"]
    assert answer["example"]["predicted"]


async def test_importing_the_api_loads_nothing_heavy_and_does_nothing():
    code = (
        "import sys, threading, onesheet.serving\n"
        "names = ('torch', 'onnxruntime', 'pyarrow', 'onesheet.cli', 'onesheet.data', 'onesheet.training',"
        " 'onesheet.evaluation')\n"
        "print([name for name in names if name in sys.modules], threading.active_count())"
    )
    done = run_command([sys.executable, "-c", code], check=True)
    assert done.stdout.split("\n")[0] == "[] 1"
    assert done.stderr == ""
