"""Count the kernels that a computation launches."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

_NONE = {"empty", "new_empty", "empty_strided", "new_empty_strided", "promote_types", "_unsafe_view"}
"""Operations that launch no kernel, besides those that say that they are views."""


class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations inside the context that are neither views nor allocations: on a GPU, each is a launch.

    Attributes:
        calls: Number of calls by the name of the operation.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _NONE:
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """Number of all calls."""
        return sum(self.calls.values())
