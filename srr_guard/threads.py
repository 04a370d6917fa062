"""Threads that may be given up on, and what a forked child process starts anew."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar
from weakref import WeakSet

from srr_guard.errors import ConfigurationError

P = ParamSpec("P")
T = TypeVar("T")

_Task = tuple["Future[Any]", Callable[[], Any]]


class Resettable(Protocol):
    """Process-wide state that a forked child must not inherit: threads, locks, lines."""

    def reset(self) -> None:
        """Start anew; nothing else runs in the process yet."""
        ...


_process_wide: WeakSet[Resettable] = WeakSet()


def reset_after_fork(state: Resettable) -> None:
    """Reset this state in every child process forked from now on."""
    _process_wide.add(state)


def _reset_all() -> None:
    for state in list(_process_wide):
        state.reset()


os.register_at_fork(after_in_child=_reset_all)


class Workers:
    """An executor whose stuck threads are replaced, and which never holds up an exit.

    The standard executor joins its threads when the interpreter ends, and a call that hangs
    occupies one of its threads for good. Here threads are daemons. A call that was given up on
    (`release`) no longer counts, and its thread ends when the call returns. Each call sees a
    copy of its caller's context variables.

    Args:
        max_threads: Most calls at the same time, those given up on not counted; further ones
            wait in line. None: no limit.
    """

    def __init__(self, *, max_threads: int | None) -> None:
        self._max_threads = max_threads
        self.reset()
        reset_after_fork(self)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a call on a thread of its own."""
        future: Future[T] = Future()
        task = (future, partial(copy_context().run, fn, *args, **kwargs))
        with self._changed:
            self._tasks.append(task)
            self._staff()
        return future

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call on a thread and wait for it without blocking the event loop.

        When the waiting task is cancelled, the thread is given up on.

        Raises:
            ConfigurationError: The loop is not asyncio's.
        """
        require_asyncio()
        future = self.submit(fn, *args, **kwargs)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self.release(future)
            raise

    def release(self, future: Future[Any]) -> None:
        """Stop waiting for a call: it never starts, or its thread no longer counts."""
        if future.cancel():
            return
        with self._changed:
            if not future.done():
                self._threads -= 1
                self._written_off.add(future)
                if self._tasks:
                    self._staff()

    def reset(self) -> None:
        """Forget all calls and threads."""
        self._changed = threading.Condition()
        self._tasks: deque[_Task] = deque()
        self._idle = 0
        self._threads = 0
        self._written_off: set[Future[Any]] = set()

    def _staff(self) -> None:
        """Give one more task in line a thread; called with the lock held."""
        if self._idle:
            self._idle -= 1  # by the waker, so that the next caller does not count on it
            self._changed.notify()
        elif self._max_threads is None or self._threads < self._max_threads:
            self._threads += 1
            threading.Thread(target=self._work, name="srr_guard", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._tasks:
                    self._idle += 1
                    self._changed.wait()
                future, call = self._tasks.popleft()
            settle(future, call)
            with self._changed:
                if future in self._written_off:
                    self._written_off.discard(future)
                    return
            del future, call


def settle(future: Future[Any], call: Callable[[], Any]) -> None:
    """Run a call and hand its result or error to the future."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except StopIteration as error:  # an asyncio future cannot carry it
        future.set_exception(RuntimeError(f"the call raised {error!r}"))
    except BaseException as error:  # noqa: BLE001 (handed to the caller)
        future.set_exception(error)
    else:
        future.set_result(result)


def is_async(function: Callable[..., Any]) -> bool:
    """Tell an async function, or an object with an async `__call__`, from a sync one."""
    call = getattr(function, "__call__", None)  # noqa: B004 (the method itself is asked)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def is_generator(function: Any) -> bool:
    """Tell a generator function, or an object with such a `__call__`, from other functions."""
    call = getattr(function, "__call__", None)  # noqa: B004 (the method itself is asked)
    return inspect.isgeneratorfunction(function) or inspect.isgeneratorfunction(call)


def is_async_generator(function: Any) -> bool:
    """Tell an async generator function, or an object with such a `__call__`, from others."""
    call = getattr(function, "__call__", None)  # noqa: B004
    return inspect.isasyncgenfunction(function) or inspect.isasyncgenfunction(call)


def require_asyncio() -> None:
    """Refuse event loops of other kinds, such as trio's; those that stand in for asyncio's do.

    Raises:
        ConfigurationError: No loop of asyncio runs here.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError as error:
        raise ConfigurationError(
            "async methods of srr_guard run on asyncio alone, and no loop of it runs here: call "
            "the sync method on a thread, such as `await trio.to_thread.run_sync(...)`"
        ) from error


def abandon(task: asyncio.Task[Any]) -> None:
    """Cancel a task without waiting for it; retrieve whatever it raises later."""
    if task.cancel():
        task.add_done_callback(lambda t: t.cancelled() or t.exception())
    elif not task.cancelled():
        task.exception()


workers = Workers(max_threads=None)
"""For sync callers: each waits for its own calls, so there are never more than they want."""

blocking_calls = Workers(max_threads=256)
"""For calls that would block an event loop: a line in front of them beats 1,000 threads."""
