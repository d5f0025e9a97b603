"""Forward passes of a model in progress: what is formed in one is shared by its layers, and never kept after it."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Hashable, Iterator
from types import CodeType
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

Forms = dict[Hashable, object]
"""What was formed in a pass, by what it was formed with."""


class Pass(NamedTuple):
    """A forward pass in progress.

    Args:
        forms: What was formed in it.
        model: The root module that is called; None for a part that runs as in a call.
        frame: Identity of the frame that calls the module's forward, which exists as long as the frame runs.
        code: The code that it runs.
    """

    forms: Forms
    model: nn.Module | None = None
    frame: int = 0
    code: CodeType | None = None

    @property
    def lasts(self) -> bool:
        """Whether the call is on this thread's stack."""
        frame = sys._getframe() if self.model is not None else None
        while frame is not None:
            if id(frame) == self.frame:  # of an interrupted call, it may have become that of another frame
                return frame.f_code is self.code and frame.f_locals.get("self") is self.model
            frame = frame.f_back
        return self.model is None


class _PassesOfThread(threading.local):
    """The passes of one thread: a call of the model inside of another one has a pass of its own."""

    def __init__(self) -> None:
        self.passes: list[Pass] = []


class Passes:
    """Forward passes of a model in progress, with the tensors formed in each.

    Formed tensors are used from the call of the model's root module to its return, and never after it. So every forward
    pass uses the present factors, no matter how they were changed. A pass also ends if a keyboard interrupt leaves the
    call, after which torch runs no hooks: it lasts while the call is on the thread's stack. The frame itself is not
    kept, as it keeps the values of all functions that called it.
    """

    def __init__(self) -> None:
        self._of_thread = _PassesOfThread()

    def watch(self, model: nn.Module) -> list[RemovableHandle]:
        """Register hooks that begin and end a pass when a model is called.

        Args:
            model: The root module.

        Returns:
            Handles of the hooks.
        """
        return [
            model.register_forward_pre_hook(self._begin, prepend=True),
            model.register_forward_hook(self._end, always_call=True),
        ]

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Run a part of the model as in a call of its root module."""
        own, passes = Pass({}), self._lasting()
        passes.append(own)
        try:
            yield
        finally:
            del passes[next(at for at, each in enumerate(passes) if each is own) :]

    @property
    def forms(self) -> Forms | None:
        """The tensors formed so far in this thread's pass; None outside of a pass."""
        passes = self._lasting()
        return passes[-1].forms if passes else None

    def restart(self) -> None:
        """Forget what was formed in this thread's pass, as for another task of a bank."""
        if (forms := self.forms) is not None:
            forms.clear()

    def _lasting(self, new: int | None = None) -> list[Pass]:
        """Return this thread's passes, after those that were interrupted are dropped.

        Args:
            new: Identity of the frame of a pass that begins; it may have been that of an interrupted one.
        """
        passes = self._of_thread.passes
        while passes and (passes[-1].frame == new or not passes[-1].lasts):
            passes.pop()
        return passes

    def _begin(self, model: nn.Module, _: object) -> None:
        if not torch.compiler.is_compiling():
            frame = sys._getframe(1)  # torch's, which also calls forward
            self._lasting(id(frame)).append(Pass({}, model, id(frame), frame.f_code))

    def _end(self, *_: object) -> None:
        if not torch.compiler.is_compiling():
            passes, caller = self._lasting(), id(sys._getframe(1))
            if passes and passes[-1].frame == caller:  # after an exception, torch calls from outside of the frame
                passes.pop()

    def __reduce__(self) -> tuple[type[Passes], tuple[()]]:
        return Passes, ()  # a copy starts without a pass
