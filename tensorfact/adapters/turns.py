"""Threads that share a model take turns: changes of its weights and forward passes do not run at the same time."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..errors import AdaptError

_PATIENCE = 300.0
"""Seconds after which a waiting thread raises an error: the other one may wait for it."""

_LOOK = 0.05
_CALL = nn.Module._call_impl.__code__


class Turns:
    """A lock of one model: many forward passes at a time, or one change, which its own thread may nest.

    A thread that comes second waits. Parts of a model that are called alone, and compiled models, take no turns.

    Args:
        model: The model, whose calls are forward passes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._free = threading.Condition()
        self._passing: set[int] = set()
        self._reading: list[int] = []
        self._changing: list[int] = []
        self._queue: list[tuple[int, bool]] = []

    def watch(self) -> list[RemovableHandle]:
        """Register hooks that begin and end a turn when the model is called.

        Returns:
            Handles of the hooks.
        """
        return [
            self.model.register_forward_pre_hook(self._begin, prepend=True),
            self.model.register_forward_hook(self._end, always_call=True),
        ]

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Context manager in which no other thread changes the model."""
        me = threading.get_ident()
        with self._free:
            self._wait(lambda: self._taken(me), "reading the adapter", change=False)
            self._reading.append(me)
        try:
            yield
        finally:
            with self._free:
                self._reading.remove(me)
                self._free.notify_all()

    @contextlib.contextmanager
    def changing(self, task: str) -> Iterator[None]:
        """Context manager in which no other thread changes or runs the model.

        Args:
            task: What is done, for the message.

        Raises:
            AdaptError: This thread is inside a forward pass of the model, or has waited for five minutes.
        """
        me = threading.get_ident()
        with self._free:
            if me in self._passing and self._runs(me):
                raise AdaptError(
                    f"{task} inside a forward pass of the model",
                    cause="a hook or a module that changes the adapter while the model runs",
                    fix=f"call {task} before or after model(x)",
                )
            self._passing.discard(me)
            self._wait(lambda: self._taken(me) or self._used(me), task, change=True)
            self._changing.append(me)
        try:
            yield
        finally:
            with self._free:
                self._changing.pop()
                self._free.notify_all()

    def _begin(self, model: nn.Module, _: object) -> None:
        if torch.compiler.is_compiling() or model is not self.model:  # a replica of DataParallel
            return
        me = threading.get_ident()
        with self._free:
            self._wait(lambda: self._taken(me), "a forward pass", change=False)
            self._passing.add(me)

    def _end(self, model: nn.Module, *_: object) -> None:
        if torch.compiler.is_compiling() or model is not self.model:
            return
        with self._free:
            self._passing.discard(threading.get_ident())
            self._free.notify_all()

    def _taken(self, me: int) -> bool:
        """Whether another thread changes the model."""
        return bool(self._changing) and self._changing[-1] != me

    def _used(self, me: int) -> bool:
        """Whether another thread runs the model or reads it."""
        return any(thread != me for thread in self._reading) or any(map(self._runs, self._passing - {me}))

    def _wait(self, busy: Callable[[], bool], task: str, *, change: bool) -> None:
        """Wait until the model is free and earlier ones had their turn.

        An interrupted pass ends without a notice, so look again now and then.
        """
        me = threading.get_ident()
        if me in (*self._changing, *self._passing, *self._reading) and not busy():
            return
        until, place = time.monotonic() + _PATIENCE, (me, change)
        self._queue.append(place)
        try:
            while busy() or any(change or other for _, other in self._queue[: self._queue.index(place)]):
                self._free.wait(_LOOK)
                if time.monotonic() > until:
                    raise AdaptError(
                        f"{task} has waited {_PATIENCE:.0f} seconds for another thread",
                        cause="the other thread waits for this one, inside `with adapter.disabled():`",
                        fix="run the model in the thread that called disabled()",
                    )
        finally:
            self._queue.remove(place)
            self._free.notify_all()

    def _runs(self, thread: int) -> bool:
        """Whether a thread is inside a call of the model, and was not interrupted in it."""
        frame: FrameType | None = sys._current_frames().get(thread)
        while frame is not None:
            if frame.f_code is _CALL and frame.f_locals.get("self") is self.model:
                return True
            frame = frame.f_back
        return False

    def __getstate__(self) -> dict[str, nn.Module]:
        return {"model": self.model}  # a copy starts free

    def __setstate__(self, state: dict[str, nn.Module]) -> None:
        vars(self).update(vars(Turns(state["model"])))


_building: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()


@contextlib.contextmanager
def one_at_a_time(model: nn.Module) -> Iterator[None]:
    """Context manager in which no other thread adapts the same model.

    Args:
        model: The model; anything else is left to the checks of the caller.
    """
    with _building.setdefault(model, threading.RLock()) if isinstance(model, nn.Module) else contextlib.nullcontext():
        yield
