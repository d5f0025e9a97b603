"""Whether a format keeps the laws."""

from __future__ import annotations

from collections.abc import Sequence

from ..formats import Format
from ..network import Mode
from .decomposition_laws import DECOMPOSITION_LAWS
from .laws import LawCheck, Laws, laws_of
from .network_laws import NETWORK_LAWS
from .subject import FormatSubject

FORMAT_LAWS: tuple[LawCheck[FormatSubject], ...] = (*NETWORK_LAWS, *DECOMPOSITION_LAWS)


def check_format(format: Format, modes: Sequence[Mode] | None = None) -> Laws:
    """Return the laws that a format has to keep, ready to be checked; nothing runs yet.

    Args:
        format: The format, of rank 2 or more if it has ranks.
        modes: The modes it is tried on; by default hypothesis draws from shapes that it allows.

    Returns:
        The laws: `check_format(f).as_test()` is a test for pytest, `check_format(f).report()` a table.

    Raises:
        FormatError: It is no format, or allows none of the shapes that are tried.

    Examples:
        >>> from tensorfact import CP
        >>> for law in check_format(CP(rank=2)):
        ...     skipped = law()
    """
    return laws_of(FormatSubject.of(format, modes), str(format), FORMAT_LAWS)
