"""Requests of a task that send what it has filled, while it fills what comes next.

A few are on their way at a time, so that a line is not idle while an answer is waited for. What
each sends is held until its answer is here.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import TypeVar

FLYING = 2  # requests, each with a part in hand
T = TypeVar("T")


class Outbox:
    """Makes requests in threads of its own; one thread hands them over."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(FLYING, thread_name_prefix="amn-send")
        self._flying: set[Future[object]] = set()

    def send(self, request: Callable[[], object]) -> None:
        """Begin a request; waits before while `FLYING` are on their way.

        Raises the error of one that was begun before, and begins none then.
        """
        self._land(FLYING - 1)
        self._flying.add(self._begun(request))

    def ask(self, request: Callable[[], T]) -> Future[T]:
        """Begin a request whose answer counts; nothing else may be on its way."""
        return self._begun(request)

    def wait(self) -> None:
        """Until nothing that was sent is on its way; raises the first error."""
        self._land(0)

    def close(self) -> None:
        """Wait for what is on its way, whatever becomes of it; a second call does nothing."""
        self._pool.shutdown()
        self._flying.clear()

    def _begun(self, request: Callable[[], T]) -> Future[T]:
        return self._pool.submit(copy_context().run, request)

    def _land(self, most: int) -> None:
        while True:
            landed = {future for future in self._flying if future.done()}
            self._flying -= landed
            for future in landed:
                future.result()
            if len(self._flying) <= most:
                return
            wait(self._flying, return_when=FIRST_COMPLETED)


__all__ = ["FLYING", "Outbox"]
