"""Which tests run a line of the package, and how long each takes: one run of every test file under coverage.py."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path

import coverage
import pytest

from .changes import ROOT, Mutant
from .runs import OPTIONS, in_a_fork

RECORDS = ROOT / "runs" / "mutants"


class Recorder:
    """A plugin of pytest that gives each test a context of its own, and measures how long it takes.

    Args:
        measured: Where the lines are counted.
    """

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured
        self.seconds: dict[str, float] = {}
        self._failed: set[str] = set()

    @property
    def passed(self) -> dict[str, float]:
        """The seconds of each test that passed."""
        return {name: seconds for name, seconds in self.seconds.items() if name not in self._failed}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Count lines for a test."""
        self.measured.switch_context(item.nodeid)
        start = time.monotonic()
        result = yield
        self.seconds[item.nodeid] = time.monotonic() - start
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Count the lines of a fixture that several tests share for all tests of the file."""
        if fixturedef.scope == "function":
            return (yield)
        test = request._pyfuncitem.nodeid
        self.measured.switch_context(test.partition("::")[0])
        try:
            return (yield)
        finally:
            self.measured.switch_context(test)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that fails or is skipped."""
        if not report.passed:
            self._failed.add(report.nodeid)


def test_files() -> list[str]:
    """Return the files with tests in `tests`, and the folders of the package, whose modules have examples."""
    rooms = (path for path in (ROOT / "tensorfact").iterdir() if (path / "__init__.py").exists())
    files = sorted((ROOT / "tests").rglob("test_*.py")) + sorted(rooms)
    return [str(path.relative_to(ROOT)) for path in files]


@functools.cache
def _digest_of_shared() -> bytes:
    """Return a digest of the package and of what its tests share."""
    files = [*(ROOT / "tensorfact").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), ROOT / "pyproject.toml"]
    own = ROOT / "tests" / "mutants"  # this tool
    shared = (path for path in sorted(files) if not path.name.startswith("test_") and own not in path.parents)
    return hashlib.sha256(b"".join(path.read_bytes() for path in shared)).digest()


class Record:
    """The lines that the tests of a file or of a folder run, kept until a source changes.

    Args:
        file: The file with tests, or the folder.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        own = (ROOT / file).read_bytes() if file.endswith(".py") else b""
        digest = hashlib.sha256(_digest_of_shared() + own).hexdigest()[:16]
        self.path = RECORDS / f"{file.replace('/', '.')}.{digest}"

    @property
    def exists(self) -> bool:
        """Whether the tests were run since the last change of a source."""
        return self._times.exists()

    @property
    def _times(self) -> Path:
        return Path(f"{self.path}.json")

    def make(self) -> None:
        """Run the tests in a fork of this process."""
        RECORDS.mkdir(parents=True, exist_ok=True)
        if in_a_fork(self._make, 3600) != 0:
            raise RuntimeError(f"the tests of {self.file} could not be run")

    def _make(self) -> int:
        package = str(ROOT / "tensorfact" / "*")
        measured = coverage.Coverage(data_file=str(self.path), config_file=False, include=[package], messages=False)
        recorder = Recorder(measured)
        measured.start()
        status = pytest.main([*OPTIONS, self.file], plugins=[recorder])
        measured.stop()
        measured.save()
        self._times.write_text(json.dumps(recorder.passed))
        return int(status in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR))

    @functools.cached_property
    def seconds(self) -> dict[str, float]:
        """The seconds of each test that passes."""
        return dict(json.loads(self._times.read_text()))

    @functools.cached_property
    def _data(self) -> coverage.CoverageData:
        data = coverage.CoverageData(str(self.path))
        data.read()
        return data

    @functools.cache  # noqa: B019  # a record lives as long as the process
    def _contexts(self, path: str) -> dict[int, list[str]]:
        return self._data.contexts_by_lineno(str(ROOT / path)) if self.seconds else {}

    def tests_of(self, mutant: Mutant) -> Iterator[str]:
        """Yield the tests that run the statement of a mutant."""
        contexts = self._contexts(mutant.path)
        found = {context for line in mutant.lines if line in contexts for context in contexts[line]}
        yield from (name for name in self.seconds if name in found or self.file in found)


def records(pool: Executor) -> list[Record]:
    """Return the records of all test files, and make those that are missing."""
    every = [Record(file) for file in test_files()]
    missing = [record for record in every if not record.exists]
    list(pool.map(Record.make, missing))
    return every


def covering(mutant: Mutant, every: Sequence[Record], at_most: float) -> tuple[list[str], list[str], float]:
    """Choose the tests of a mutant: those that run its statement, the fast ones first.

    A statement that runs when the module is imported, and not in a test, has all tests of its room as well.

    Args:
        mutant: The mutant.
        every: The records of all test files.
        at_most: Seconds that the chosen tests take on the unchanged package.

    Returns:
        The tests in the files that are nearest to the module, all others, and the seconds of both.
    """
    seconds = {name: record.seconds[name] for record in every for name in record.tests_of(mutant)}
    if not seconds or mutant.at_import:
        room = f"tests/{Path(mutant.path).parts[1]}/"
        seconds |= {name: s for record in every if record.file.startswith(room) for name, s in record.seconds.items()}
    chosen: defaultdict[bool, list[str]] = defaultdict(list)
    total = 0.0
    own = _nearest(mutant.path)
    for name in sorted(seconds, key=lambda name: (name.partition("::")[0] not in own, seconds[name])):
        if total + seconds[name] <= at_most:
            total += seconds[name]
            chosen[name.partition("::")[0] in own].append(name)
    return chosen[True], chosen[False], total


def _nearest(path: str) -> set[str]:
    """Return the module itself, with its examples, and the file of its tests."""
    *rooms, last = Path(path).with_suffix("").parts[1:]
    return {path, "/".join(["tests", *rooms, f"test_{last}.py"])}
