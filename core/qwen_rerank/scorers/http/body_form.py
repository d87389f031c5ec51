"""Which of two forms of the request body a service expects, found by trying."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from qwen_rerank.errors import InvalidInputError, QwenRerankError
from qwen_rerank.scorers.http.retry import is_transient

__all__ = ["BodyForm"]

T = TypeVar("T")


class BodyForm:
    """The form that one service expects for one model. For a single event loop.

    The usual form is used until the service refuses it as malformed. Then the other one is tried.
    What the service accepted last is used from then on. If it refuses both, the other form is not
    tried again before a request succeeds.
    """

    def __init__(self) -> None:
        self._is_other = False
        self._has_refused_both = False
        self._trying = asyncio.Lock()

    async def send(
        self, send: Callable[[bool], Awaitable[T]], is_malformed: Callable[[str], bool]
    ) -> T:
        """Send a request in the form that the service expects.

        Args:
            send: Sends the request; in the other form if True.
            is_malformed: Whether an error's message says that the body has the wrong form.

        Raises:
            QwenRerankError: What `send` raised. If both forms are refused, the error for the first.
        """
        is_other = self._is_other
        try:
            sent = await send(is_other)
        except InvalidInputError as error:
            if not is_malformed(error.message):
                raise
            refusal = error
        else:
            self._accepted(is_other=is_other)
            return sent
        async with self._trying:  # requests that were refused together wait for one trial
            return await self._send_other(send, refusal, is_other=not is_other)

    async def _send_other(
        self, send: Callable[[bool], Awaitable[T]], refusal: InvalidInputError, *, is_other: bool
    ) -> T:
        if self._has_refused_both and self._is_other is not is_other:
            raise refusal
        try:
            sent = await send(is_other)
        except QwenRerankError as error:
            if is_transient(error):  # says nothing about the form
                raise
        else:
            self._accepted(is_other=is_other)
            return sent
        self._has_refused_both = True
        raise refusal

    def _accepted(self, *, is_other: bool) -> None:
        self._is_other, self._has_refused_both = is_other, False
