"""The argument `tasks` of `adapt`: the names of the tasks, and what they share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ...common.checks import quoted, whole_number
from ...errors import AdaptError, nearest
from ...formats import Format
from ...plan import ResolvedPlan


@dataclasses.dataclass(frozen=True)
class Tasks:
    """The tasks of a bank, and the cores that they share.

    Args:
        names: Names of the tasks, at least one.
        shared: Names of the cores that all tasks have in common, such as `["U", "V"]` of a tensor train; every task has
            the others for itself. Cores that are not trained are always shared.
        classes: The number of classes of every task, in the same order; default: that of the model's head.

    Raises:
        AdaptError: A name is empty or used twice, or a number of classes is missing or not positive.

    Examples:
        >>> from tensorfact import Tasks, TensorTrain, adapt, plan_for
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> bank = adapt(model, plan_for(model), TensorTrain(rank=8), tasks=Tasks(["flowers", "pets"], ["U", "V"]))
        >>> bank.num_parameters  # 2 x 96 x 8 for U and V, and 8 x 72 x 8 for S1 of each task
        10752
    """

    names: Sequence[str]
    shared: Sequence[str] = ()
    classes: Sequence[int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", _names(self.names, "tasks", least=1))
        object.__setattr__(self, "shared", _names(self.shared, "tasks: shared"))
        if self.classes is None:
            return
        counts = tuple(whole_number(count, "tasks: classes", AdaptError, least=1) for count in self.classes)
        if len(counts) != len(self.names):
            raise AdaptError(
                "tasks: classes",
                expected=f"{len(self.names)} numbers, one for each task",
                got=f"{len(counts)}",
                fix="classes=None for the classes of the model's head",
            )
        object.__setattr__(self, "classes", counts)

    def require_cores(self, resolved: ResolvedPlan, formats: Mapping[str, Format]) -> None:
        """Check that the shared cores exist, and leave a trained one to the tasks in every tensor.

        Args:
            resolved: The plan, resolved on the model.
            formats: Formats by tensor name.

        Raises:
            AdaptError: A core is unknown, or no trained core is left.
        """
        names: dict[str, None] = {}
        for tensor in resolved.tensors:
            cores = tensor.network(formats[tensor.name]).cores
            names |= dict.fromkeys(core.name for core in cores)
            if not any(core.trained and core.name not in self.shared for core in cores):
                raise AdaptError(
                    f"tasks: shared={list(self.shared)} leaves no core of tensor {tensor.name!r} to the tasks",
                    expected=f"some of {[core.name for core in cores if core.trained]}, but not all",
                    fix="leave out a core, as in shared=['U', 'V'] of a tensor train",
                )
        for name in self.shared:
            if name not in names:
                raise AdaptError(
                    "tasks: shared",
                    expected=f"some of {list(names)}",
                    got=f"{name!r}{nearest(name, names)}",
                    fix=f"shared={[next(iter(names))]}",
                )


TasksLike = Tasks | Sequence[str]
"""Tasks, or their names: then every task has all cores for itself."""


def as_tasks(tasks: object) -> Tasks:
    """Return tasks for what was passed to `adapt`.

    Args:
        tasks: `Tasks`, or names.

    Raises:
        AdaptError: It is neither.
    """
    return tasks if isinstance(tasks, Tasks) else Tasks(tasks)  # type: ignore[arg-type]  # Tasks checks it


def _names(names: object, argument: str, least: int = 0) -> tuple[str, ...]:
    problem = ""
    if isinstance(names, str) or not isinstance(names, Sequence):
        problem = quoted(names)
    elif not all(isinstance(name, str) and name.strip() for name in names) or len(names) < least:
        problem = quoted(list(names))
    elif broken := [name for name in names if name.encode(errors="replace").decode() != name]:
        problem = f"{broken[0]!r}, which is no Unicode text"
    elif twice := sorted({name for name in names if list(names).count(name) > 1}):
        problem = f"{twice[0]!r} twice"
    if problem:
        raise AdaptError(argument, expected="a list of names", got=problem, fix="tasks=['flowers', 'pets']")
    return tuple(names)  # type: ignore[arg-type]  # checked above
