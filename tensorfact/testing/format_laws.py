"""Check a format against the laws."""

from __future__ import annotations

from collections.abc import Sequence

from ..formats import Format
from ..network import Mode
from .decomposition_laws import DECOMPOSITION_LAWS
from .laws import LawCheck, Laws, laws_of
from .network_laws import NETWORK_LAWS
from .subject import FormatSubject

FORMAT_LAWS: tuple[LawCheck[FormatSubject], ...] = (*NETWORK_LAWS, *DECOMPOSITION_LAWS)


def check_format(format: Format, modes: Sequence[Mode] | None = None, *, subtract_start: bool = False) -> Laws:
    """Return the laws that a format has to satisfy. They run when called, by pytest or in a report.

    Args:
        format: The format to test, of rank 2 or more if it has a rank.
        modes: The modes to test it on; by default several shapes that suit the format.
        subtract_start: Whether the format is used with `adapt(..., subtract_start=True)`: then no core has to start at
            zero.

    Returns:
        The laws: `check_format(f).as_test()` is a pytest test, `check_format(f).report()` returns a table of results.

    Raises:
        FormatError: `format` is not a format, or none of the test shapes suits it.

    Examples:
        >>> from tensorfact import CP
        >>> for law in check_format(CP(rank=2)):
        ...     skipped = law()
    """
    return laws_of(FormatSubject.of(format, modes, subtract_start), str(format), FORMAT_LAWS)
