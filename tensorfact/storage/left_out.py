"""Cores that a file leaves out, since they can be rebuilt bit for bit from its seed and formats."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class LeftOutCores:
    """Cores that a file leaves out, since they can be rebuilt bit for bit.

    Args:
        names: Their names, as they would be in the file.
        digest: A digest of their names and numbers.
    """

    names: frozenset[str]
    digest: str

    @classmethod
    def of(cls, cores: Mapping[str, Tensor]) -> LeftOutCores:
        """Return the names and the digest of some cores.

        Args:
            cores: The cores by name, as in a file.
        """
        return cls(frozenset(cores), _digest(cores))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
