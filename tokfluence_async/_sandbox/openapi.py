"""The OpenAPI 3.1 description of the three documented endpoints, as the sandbox serves them.

Written from the API page, beside the server and not derived from it: schemathesis looks for
contradictions between the two (`tests/sandbox/test_openapi.py`).
"""

from __future__ import annotations

from typing import Any

__all__ = ["describe"]

_URL_PATTERN = (
    r"^[hH][tT][tT][pP][sS]?://([a-zA-Z0-9-]+\.)?[tT][iI][kK][tT][oO][kK]\.[cC][oO][mM]"
    r"/(@[A-Za-z0-9_.-]*/(video|photo)|v)/[0-9]{1,20}(\.html)?/?([?#].*)?$"
)


def _nullable(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": [kind, "null"], **more}


def _object(properties: dict[str, Any], *, required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
    }


_COUNT = _nullable("integer", minimum=0)

_SCHEMAS: dict[str, Any] = {
    "Post": _object(
        {
            "post_id": {"type": "string", "pattern": "^[0-9]{1,20}$"},
            "url": {"type": "string", "format": "uri"},
            "caption": _nullable("string"),
            "published_at": _nullable("string", format="date-time"),
            "cover_url": _nullable("string", format="uri"),
            "duration": _COUNT,
            "views": _COUNT,
            "likes": _COUNT,
            "comments": _COUNT,
            "shares": _COUNT,
            "saves": _COUNT,
            "hashtags": _nullable("array", items={"type": "string"}),
            "mentions": _nullable("array", items={"type": "string"}),
            "music": {
                **_object(
                    {
                        "title": {"type": "string"},
                        "author": {"type": "string"},
                        "original": {"type": "boolean"},
                    }
                ),
                "type": ["object", "null"],
            },
            "is_sponsored": _nullable("boolean"),
        }
    ),
    "Comment": _object(
        {
            "comment_id": {"type": "string"},
            "text": _nullable("string"),
            "published_at": _nullable("string", format="date-time"),
            "likes": _COUNT,
            "reply_count": _COUNT,
            "parent_comment_id": _nullable("string"),
            "author_username": _nullable("string"),
            "author_picture": _nullable("string", format="uri"),
        }
    ),
    "CommentPage": _object(
        {
            "data": {
                "type": "array",
                "items": {"$ref": "#/components/schemas/Comment"},
                "maxItems": 200,
            },
            "meta": _object(
                {
                    "total": {"type": "integer", "minimum": 0},
                    "next_cursor": _nullable("integer", minimum=1),
                }
            ),
        }
    ),
    "Analysis": _object(
        {
            "url": {"type": "string"},
            "postId": {"type": "string", "pattern": "^[0-9]{1,20}$"},
            "status": {"type": "string", "examples": ["analyzed", "fresh"]},
        }
    ),
    "AnalyzeRequest": _object(
        {
            "urls": {
                "type": "array",
                "minItems": 1,
                "maxItems": 50,
                "items": {"type": "string", "pattern": _URL_PATTERN},
            },
            "force": {"type": "boolean", "default": False},
        },
        required=["urls"],
    ),
    "AnalyzeResponse": _object(
        {
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Analysis"}},
            "meta": _object(
                {
                    "submitted": {"type": "integer", "minimum": 1, "maximum": 50},
                    "cost": {"type": "integer", "minimum": 25, "multipleOf": 25},
                }
            ),
        }
    ),
    "Error": _object(
        {"error": _object({"code": {"type": "string"}, "message": {"type": "string"}})}
    ),
}

_ERRORS = {
    "401": "`unauthorized`: token missing, malformed or revoked.",
    "402": "`insufficient_credits`: wallet empty, nothing was done.",
    "404": "`post_not_found`: not in the index. Charged.",
    "409": "`duplicate_request`: this request id was already processed. Not charged.",
    "422": "`missing_parameter`: a parameter is missing or invalid. Charged.",
    "429": "`rate_limited`: throttled. Not charged.",
    "500": "`internal_error`",
    "502": "`upstream_error`: the TikTok pipeline is unreachable; refunded.",
}


def _responses(schema: dict[str, Any], *errors: str) -> dict[str, Any]:
    headers = {
        "X-Credits-Remaining": {"required": True, "schema": {"type": "integer"}},
        "X-Request-Id": {"required": True, "schema": {"type": "string"}},
    }
    retry_after = {"Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 1}}}
    responses: dict[str, Any] = {
        "200": {
            "description": "Done.",
            "headers": headers,
            "content": {"application/json": {"schema": schema}},
        }
    }
    for status in errors:
        responses[status] = {
            "description": _ERRORS[status],
            "headers": {**headers, **(retry_after if status == "429" else {})},
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
    return responses


_REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "required": False,
    "description": "Names a logical request, best a UUID. One that was already processed gets 409.",
    "schema": {"type": "string"},
}
_POST_ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "The TikTok video id, the trailing number of the video's URL.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,20}$"},
}

_PATHS: dict[str, Any] = {
    "/v1/posts/{id}": {
        "get": {
            "operationId": "getPost",
            "summary": "Read a post from the index. 1 credit.",
            "parameters": [_POST_ID, _REQUEST_ID],
            "responses": _responses(
                _object({"data": {"$ref": "#/components/schemas/Post"}}),
                "401",
                "402",
                "404",
                "409",
                "429",
                "500",
                "502",
            ),
        }
    },
    "/v1/posts/{id}/comments": {
        "get": {
            "operationId": "listComments",
            "summary": "Read a page of a post's comments. 2 credits.",
            "parameters": [
                _POST_ID,
                {
                    "name": "cursor",
                    "in": "query",
                    "description": "Comments to skip.",
                    "schema": {
                        "type": "integer",
                        "minimum": 0,
                        "maximum": 10**18 - 1,
                        "default": 0,
                    },
                },
                {
                    "name": "limit",
                    "in": "query",
                    "schema": {
                        "type": "integer",
                        "minimum": 1,
                        "maximum": 200,
                        "default": 50,
                    },
                },
                _REQUEST_ID,
            ],
            "responses": _responses(
                {"$ref": "#/components/schemas/CommentPage"},
                "401",
                "402",
                "404",
                "409",
                "422",
                "429",
                "500",
                "502",
            ),
        }
    },
    "/v1/posts/analyze": {
        "post": {
            "operationId": "analyzePosts",
            "summary": "Analyze posts live. 25 credits per URL submitted.",
            "parameters": [_REQUEST_ID],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/AnalyzeRequest"}}
                },
            },
            "responses": _responses(
                {"$ref": "#/components/schemas/AnalyzeResponse"},
                "401",
                "402",
                "409",
                "422",
                "429",
                "500",
                "502",
            ),
        }
    },
}


def describe(url: str) -> dict[str, Any]:
    """The description, for a sandbox at `url`."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tokfluence API (sandbox)", "version": "1"},
        "servers": [{"url": url}],
        "security": [{"bearer": []}],
        "paths": _PATHS,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": _SCHEMAS,
        },
    }
