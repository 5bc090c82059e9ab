"""Errors as problem details (RFC 9457).

A detail is about the request, in words for its sender: it has no path and no traceback.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

PROBLEM_TYPE = "application/problem+json"
STATUS_DESCRIPTIONS = {
    400: "The form is not valid.",
    401: "The token is missing or wrong.",
    403: "The request comes from a page on another site; see --cors.",
    408: "The upload was too slow.",
    409: "The new model is not fit for use; the server's log has the reason.",
    413: "The clip is too large or too long.",
    415: "The request is not a form, or the file is not a video.",
    421: "The server is addressed by a name that is not its own; see --allowed-host.",
    422: "The clip cannot be processed, or a parameter is wrong.",
    500: "Internal error.",
    503: "The server is busy, starting up or shutting down; see Retry-After.",
}


class Problem(Exception):
    """Ends a request with an error response.

    Args:
        status: HTTP status from 400 on.
        detail: what is wrong with this request, and how to correct it.
        headers: of the response.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None):
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


class ProblemDetails(BaseModel):
    """Why a request failed (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Unsupported Media Type",
                    "status": 415,
                    "detail": "not a video file (mp4, mov, mkv, webm, avi, flv, wmv, mpg)",
                }
            ]
        }
    )

    type: str = Field(default="about:blank", description="always about:blank (see the status)")
    title: str = Field(description="the status in words")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="what is wrong with this request, and how to correct it")


def problem_details(problem: Problem) -> ProblemDetails:
    """Return the JSON object for a problem."""
    return ProblemDetails(
        type="about:blank",
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=problem.detail,
    )


def problem_response(problem: Problem) -> JSONResponse:
    """Return the response for a problem."""
    content = problem_details(problem).model_dump()
    return JSONResponse(content, problem.status, problem.headers, media_type=PROBLEM_TYPE)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that may fail with these statuses."""
    return {
        status: {"model": ProblemDetails, "description": STATUS_DESCRIPTIONS[status]}
        for status in statuses
    }


def describe_problems(openapi: dict[str, Any]) -> None:
    """Give all error responses of an OpenAPI document the media type of problem details."""
    for methods in openapi["paths"].values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    (content,) = response["content"].values()
                    response["content"] = {PROBLEM_TYPE: content}


def add_problem_handlers(app: FastAPI) -> None:
    """Make an application return its own and the framework's errors as problem details."""

    @app.exception_handler(Problem)
    async def on_problem(_: Request, problem: Problem) -> JSONResponse:
        return problem_response(problem)

    @app.exception_handler(HTTPException)
    async def on_http_exception(_: Request, error: HTTPException) -> JSONResponse:
        return problem_response(Problem(error.status_code, str(error.detail), error.headers))

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return problem_response(Problem(422, "; ".join(errors)))
