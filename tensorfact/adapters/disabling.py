"""Run an adapted model as its base model for a while: `Adapter.disabled`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from .beside import Beside
from .slots import Switch


class Mergeable(Protocol):
    """The interface of an adapter, as it is used here."""

    @property
    def merged(self) -> bool:
        """Whether the increments are merged."""

    def merge(self) -> None:
        """Merge the increments."""

    def unmerge(self) -> None:
        """Restore the base weights."""


class Disabling:
    """Counts the open `disabled()` contexts of one adapter; the last one to close brings the adapter back.

    Args:
        switch: Whether the increments are added.
        beside: What trains beside the factors.
    """

    def __init__(self, switch: Switch, beside: Beside) -> None:
        self._switch, self._beside = switch, beside
        self._undo = contextlib.ExitStack()

    @contextlib.contextmanager
    def opened(self, adapter: Mergeable) -> Iterator[None]:
        """Context manager in which the model is the base model. Contexts may overlap and close in any order.

        An error in the body is raised as it is, with a note if the adapter could not be brought back.

        Args:
            adapter: The adapter.

        Raises:
            AdaptError: A large tensor other than the head trains beside the factors.
        """
        if not self._switch.disabled:
            self._undo = self._begun(adapter)
        self._switch.disabled += 1
        try:
            yield
        except BaseException as error:
            try:
                self._close()
            except Exception as failed:  # it must not hide the error of the body
                error.add_note(f"Leaving disabled() failed too: {failed}")
            raise
        else:
            self._close()

    def _begun(self, adapter: Mergeable) -> contextlib.ExitStack:
        """Disable the adapter, and return what brings it back; on an error nothing changes."""
        with contextlib.ExitStack() as undo:
            if adapter.merged:
                adapter.unmerge()
                undo.callback(adapter.merge)
            undo.callback(setattr, self._switch, "on", self._switch.on)
            undo.enter_context(self._beside.away())
            self._switch.on = False
            return undo.pop_all()

    def _close(self) -> None:
        self._switch.disabled -= 1
        if not self._switch.disabled:
            self._undo.close()
