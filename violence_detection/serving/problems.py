"""What a request is told that cannot be answered: problem details, RFC 9457.

A detail is about what was sent, in words for who sent it: it has no path and no traceback.
"""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

PROBLEM_TYPE = "application/problem+json"


class Problem(Exception):
    """Ends a request with a status from 400 on.

    Args:
        status: of HTTP.
        detail: what is wrong with this request, and the way out.
        headers: of the answer.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None):
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


class ProblemDetails(BaseModel):
    """Why a request was not answered (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Unsupported Media Type",
                    "status": 415,
                    "detail": "this is no video file (mp4, mov, mkv, webm, avi, flv, wmv, mpg)",
                }
            ]
        }
    )

    type: str = Field(default="about:blank", description="the status says it all")
    title: str = Field(description="of the status")
    status: int = Field(description="of HTTP")
    detail: str = Field(description="what is wrong with this request, and the way out")


def problem_response(problem: Problem) -> JSONResponse:
    """Return the answer that tells a problem."""
    return JSONResponse(
        details(problem).model_dump(), problem.status, problem.headers, media_type=PROBLEM_TYPE
    )


def details(problem: Problem) -> ProblemDetails:
    """Return what is told of a problem."""
    return ProblemDetails(
        type="about:blank",
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=problem.detail,
    )
