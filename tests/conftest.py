"""How the suite runs: the same examples on every run of a build machine, fresh ones elsewhere."""

from __future__ import annotations

import collections
import os
import zlib

import pytest
import torch
from hypothesis import settings

settings.register_profile("ci", deadline=None, max_examples=20, derandomize=True, print_blob=True)
settings.register_profile("dev", deadline=None, max_examples=20)
settings.register_profile("deep", deadline=None, max_examples=1000)  # --hypothesis-profile=deep
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# The tensors of most tests are tiny: on a busy machine, threads that wait for each other take ten times as long.
torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give each test its own random numbers on a build machine, whichever tests ran before it in this process."""
    if "CI" in os.environ:
        torch.manual_seed(zlib.crc32(item.nodeid.encode()))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases of sampled tests that do not run by default as slow."""
    seen: collections.Counter[str] = collections.Counter()
    for item in items:
        mark = item.get_closest_marker("sampled")
        if mark is None or item.get_closest_marker("slow") is not None:
            continue
        test = item.nodeid.partition("[")[0]
        if seen[test] % mark.args[0]:
            item.add_marker(pytest.mark.slow)
        seen[test] += 1
