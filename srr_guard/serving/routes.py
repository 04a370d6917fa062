"""Routes whose errors become answers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response


def answering(answer: Callable[[Exception], Response]) -> type[APIRoute]:
    """The class of a router's routes.

    Args:
        answer: Makes the answer from what a handler raised, or FastAPI found wrong in its body.
    """

    class Answering(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                try:
                    return await handle(request)
                except Exception as error:  # noqa: BLE001 (each becomes an answer)
                    return answer(error)

            return guarded

    return Answering
