"""The argument `tasks` of `adapt`: names, shared cores and numbers of classes, right and wrong."""

from __future__ import annotations

import pytest

from tensorfact import Tasks
from tensorfact.adapters.banks.tasks import as_tasks
from tensorfact.errors import AdaptError
from tests.helpers import refused


def test_names_and_numbers_of_classes_are_kept_in_order() -> None:
    tasks = Tasks(["b", "a"], ("U",), [3, 2])
    assert (tasks.names, tasks.shared, tasks.classes) == (("b", "a"), ("U",), (3, 2))
    assert as_tasks(["b", "a"]) == Tasks(("b", "a"))
    assert as_tasks(tasks) is tasks


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        ("flowers", {}, ("a list of names", "'flowers'")),
        ([], {}, ("a list of names", "[]")),
        (["a", "a"], {}, ("a list of names", "'a' twice")),
        (["a", 3], {}, ("a list of names",)),
        ([" "], {}, ("a list of names",)),
        (None, {}, ("a list of names", "None")),
        (["a"], {"shared": "UV"}, ("tasks: shared", "'UV'")),
        (["a"], {"classes": [1, 2]}, ("1 numbers", "got 2")),
        (["a"], {"classes": [0]}, ("tasks: classes",)),
        (["a"], {"classes": [2.5]}, ("tasks: classes",)),
    ],
    ids=str,
)
def test_what_names_no_tasks_is_refused(names: object, options: dict[str, object], words: tuple[str, ...]) -> None:
    with refused(AdaptError, *words):
        Tasks(names, **options)  # type: ignore[arg-type]  # that is the point
