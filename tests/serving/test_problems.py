import asyncio

import httpx
import pytest
from fastapi import FastAPI, HTTPException

from tests.serving.http import problem_detail
from violence_detection.serving.problems import (
    PROBLEM_TYPE,
    Problem,
    add_problem_handlers,
    describe_problems,
    problem_responses,
)


def make_app() -> FastAPI:
    app = FastAPI()
    add_problem_handlers(app)

    @app.get("/busy", responses=problem_responses(503))
    def busy() -> None:
        raise Problem(503, "come back later", {"Retry-After": "5"})

    @app.get("/limited")
    def limited() -> None:
        raise HTTPException(429, "slow down", {"Retry-After": "6"})

    @app.get("/number", responses=problem_responses(422))
    def number(value: int, other: int) -> int:
        return value + other

    return app


def get(route: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(make_app())
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(route)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("route", "status", "detail", "retry_after"),
    [
        ("/busy", 503, "come back later", "5"),
        ("/limited", 429, "slow down", "6"),
        ("/nothing", 404, "Not Found", None),
    ],
)
def test_errors_of_all_kinds_are_problems_and_keep_their_headers(
    route: str, status: int, detail: str, retry_after: str | None
) -> None:
    response = get(route)
    assert problem_detail(response, status) == detail
    assert response.headers.get("retry-after") == retry_after


def test_every_invalid_parameter_is_named() -> None:
    detail = problem_detail(get("/number?value=x"), 422)
    assert "query.value: " in detail
    assert "query.other: " in detail


def test_document_gives_errors_the_media_type_of_problems_and_leaves_the_rest() -> None:
    document = make_app().openapi()
    describe_problems(document)
    responses = document["paths"]["/busy"]["get"]["responses"]
    assert list(responses["503"]["content"]) == [PROBLEM_TYPE]
    assert list(responses["200"]["content"]) == ["application/json"]
