"""The head of every task, in the place of the model's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import cast

import torch
from torch import Tensor, nn

from ...errors import AdaptError
from ...model.parameters import base_parameters, owner_of
from ..increments import AnyIncrement
from ..increments.products import LinearProduct, Product
from ..layers import attach, detach, product_of
from ..slots import Slot, Switch
from .alone import Alone
from .choice import TaskChoice


class TaskHeads(nn.Module):
    """The head of every task: for each of the head's parameters one tensor with the tasks in front.

    Tasks may have different numbers of classes. The rows of the last layers are then padded to the most classes; their
    logits are minus infinity in a mixed batch, and left out where all samples have one task.

    Args:
        model: The model.
        names: Names of the head's parameters.
        classes: The number of classes of every task; None for that of the model's own head.
        choice: The tasks, and which of them runs.
        switch: Whether the tasks' heads are in use.
        generator: A CPU generator for heads of other sizes than the model's own.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        classes: Sequence[int | None],
        choice: TaskChoice,
        switch: Switch,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.__dict__["_model"] = model
        self.names, self.choice, self.switch = tuple(names), choice, switch
        parameters = base_parameters(model)
        modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
        self.own = _classes_of(model, modules)
        sizes = [self.own or 0 if count is None else count for count in classes]
        self.last = {
            name for name in names if self.own and parameters[name].shape[0] == self.own and _is_last(name, modules)
        }
        if any(count is not None for count in classes):
            self._require_classes("tasks")
        self.counts, self.alone = sizes, Alone(choice)
        self.values = nn.ParameterDict()
        for name in names:
            base = parameters[name]
            rows = [self._fresh(name, base, count, generator) for count in sizes]
            self.values[_key(name)] = nn.Parameter(torch.stack(_padded(rows)))

    def _require_classes(self, call: str) -> None:
        """Raise unless the classes of a task can be counted, and given another number."""
        modules = list(dict.fromkeys(name.rpartition(".")[0] for name in self.names))
        ends = [name for name in modules if _classes_of(self.__dict__["_model"], [name]) == self.own]
        if not self.last or len(ends) > 1:
            raise AdaptError(
                f"{call}: classes",
                expected="a model with one linear layer of classes as its head",
                got=f"{ends}" if self.last else f"the head {list(self.names)}",
                fix="leave out classes, or pass the name of the head as train_head",
            )

    def require_fits(self, head: Mapping[str, Tensor]) -> None:
        """Check that the parameters of a task's head have the shapes of the model's own, but for the classes.

        Args:
            head: The parameters by name.

        Raises:
            AdaptError: One has another shape.
        """
        parameters = base_parameters(self.__dict__["_model"]) if self.names else {}
        for name in self.names:
            own, found = parameters[name].shape, head[name].shape
            free = name in self.last and len(found) == len(own)
            if found != own and not (free and found[1:] == own[1:] and found[0] > 0):
                raise AdaptError(
                    f"the head of the task does not fit the model: {name}",
                    expected=f"shape {tuple(own)}{', with any number of classes' if free else ''}",
                    got=f"shape {tuple(found)}",
                    fix="pass an adapter of a model with this head",
                )

    def _fresh(self, name: str, base: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return a head's parameter for one task: the model's own if that has the same size."""
        base = base.detach()
        if name not in self.last or count == base.shape[0]:
            return base.clone()
        if base.dim() == 1:
            return base.new_zeros(count)
        bound = 1 / math.sqrt(math.prod(base.shape[1:]))  # as torch's layers start
        drawn = 2 * torch.rand(count, *base.shape[1:], generator=generator, dtype=torch.float64, device="cpu") - 1
        return (drawn * bound).to(base.device, base.dtype)

    @property
    def layers(self) -> dict[nn.Module, bool]:
        """The layers of the model's head, and whether each is a plain linear one."""
        return {
            module: "weight" in names and isinstance(product_of(module, "weight"), LinearProduct)
            for module, names in self._modules_of().items()
        }

    def extend(self, head: Mapping[str, Tensor] | None, classes: int | None, generator: torch.Generator) -> None:
        """Add a task behind the others; the heads become new parameters.

        Args:
            head: The parameters of its head by name; None for a fresh one.
            classes: Its number of classes; None for that of the model's own head, or of `head`.
            generator: A CPU generator for a head of another size than the model's own.

        Raises:
            AdaptError: The head does not fit the model; nothing is changed.
        """
        parameters = base_parameters(self.__dict__["_model"])
        if head is not None:
            self.require_fits(head)
        elif classes is not None:
            self._require_classes("add")
        count = (self.own or 0) if classes is None else classes
        if head is not None and self.last:
            count = head[next(name for name in self.names if name in self.last)].shape[0]
        for name in self.names:
            row = self._fresh(name, parameters[name], count, generator) if head is None else head[name]
            rows = _padded([*self.values[_key(name)].detach(), row.to(self.values[_key(name)])])
            self.values[_key(name)] = nn.Parameter(torch.stack(rows))
        self.counts.append(count)

    def fill(self, at: int, head: Mapping[str, Tensor]) -> None:
        """Overwrite the head of a task, which may have another number of classes.

        Args:
            at: The position of the task.
            head: The parameters by name.
        """
        with torch.no_grad():
            for name in self.names:
                stacked, row = self.values[_key(name)], head[name]
                if name in self.last:
                    self.counts[at] = row.shape[0]
                    if row.shape[0] > stacked.shape[1]:
                        wider = _padded([*stacked, row.to(stacked)])[:-1]
                        stacked = nn.Parameter(torch.stack(wider), requires_grad=stacked.requires_grad)
                        self.values[_key(name)] = stacked
                    stacked[at].zero_()
                    stacked[at, : row.shape[0]].copy_(row)
                else:
                    stacked[at].copy_(row)

    def assign(self, heads: Sequence[Mapping[str, Tensor]]) -> None:
        """Overwrite the head of every task.

        Args:
            heads: The parameters of each head by name, of its number of classes.
        """
        with torch.no_grad():
            for name in self.names:
                rows = _padded([head[name].to(self.values[_key(name)]) for head in heads])
                self.values[_key(name)].copy_(torch.stack(rows))

    def shrink(self, at: int) -> None:
        """Remove a task; the heads of the others become new parameters.

        Args:
            at: Its position.
        """
        del self.counts[at]
        for name in self.names:
            rows = [row for index, row in enumerate(self.values[_key(name)].detach()) if index != at]
            most = max(self.counts)
            self.values[_key(name)] = nn.Parameter(torch.stack([r[:most] if name in self.last else r for r in rows]))

    def parameters_by_key(self) -> dict[str, nn.Parameter]:
        """Return the tensors of all tasks by the key of each."""
        return dict(self.values.items())

    def attach(self) -> None:
        """Let the layers of the model's head use the heads of the tasks."""
        switch = cast("Switch", HeadSwitch(self.switch))
        layers = self.layers
        for module, names in self._modules_of().items():
            direct = layers[module]
            slots = {
                attribute: Slot(name, cast("AnyIncrement", HeadParameter(self, name, direct=direct)), 1.0, switch)
                for attribute, name in names.items()
            }
            attach(module, slots, activation=direct)

    def detach(self) -> None:
        """Undo `attach`."""
        for module in self._modules_of():
            detach(module)

    def _modules_of(self) -> dict[nn.Module, dict[str, str]]:
        found: dict[nn.Module, dict[str, str]] = {}
        for name in self.names:
            module, attribute = owner_of(self.__dict__["_model"], name)
            found.setdefault(module, {})[attribute] = name
        return found

    def of_task(self, at: int) -> dict[str, Tensor]:
        """Return the head's parameters of one task, by their names in the model.

        Args:
            at: The position of the task.
        """
        rows = {name: self.alone.of_task(_key(name), self.values[_key(name)], at) for name in self.names}
        return {name: self._cut(name, row, at) for name, row in rows.items()}

    def present(self, name: str) -> Tensor:
        """Return a parameter of the present task's head.

        Args:
            name: Its name in the model.
        """
        row = self.alone.present(_key(name), self.values[_key(name)])
        if name not in self.last or min(self.counts) == row.shape[0]:  # compiled code need not know the task then
            return row
        return self._cut(name, row, self.choice.at)

    def _cut(self, name: str, row: Tensor, at: int) -> Tensor:
        return row[: self.counts[at]] if name in self.last else row

    def each(self, name: str) -> Tensor:
        """Return a parameter of the head of each sample in a mixed batch, padded to the most classes.

        Args:
            name: Its name in the model.
        """
        stacked = self.values[_key(name)]
        return self.alone.each(_key(name), stacked, self.alone.rows.get(_key(name), stacked[0]))

    def without_padding(self, name: str, logits: Tensor) -> Tensor:
        """Set the logits (samples, ..., classes) of a mixed batch that are padding to minus infinity.

        Args:
            name: The name of the weight that gave them.
            logits: The logits.
        """
        most = logits.shape[-1]
        if name not in self.last or min(self.counts) == most:
            return logits
        counts = self.choice.each(torch.tensor(self.counts, device=logits.device))
        classes = torch.arange(most, device=logits.device)
        padding = (classes >= counts[:, None]).reshape(len(counts), *(1 for _ in logits.shape[2:]), most)
        return logits.masked_fill(padding, -math.inf)


class HeadSwitch:
    """Whether the tasks' heads are in use: also while the increments are merged.

    Args:
        switch: Whether the increments are added.
    """

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self.number, self.refuse_recomputing = switch.number, switch.refuse_recomputing

    @property
    def on(self) -> bool:
        """Whether the heads are in use."""
        return not self._switch.disabled and not self._switch.base


class HeadParameter:
    """A parameter of the tasks' heads, as a layer of the model's head uses it in the place of its own.

    Args:
        heads: The heads of all tasks.
        name: The parameter's name in the model.
        direct: Whether its layer is a plain linear one, which has a product for mixed batches.
    """

    def __init__(self, heads: TaskHeads, name: str, *, direct: bool) -> None:
        self.heads, self.name, self.direct = heads, name, direct
        self.factors = SimpleNamespace(tensors=self._tensors)

    def _tensors(self) -> list[Tensor]:
        return [self.heads.values[_key(self.name)]]

    def linear(self, product: Product, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        """Compute the linear layer of the head of the present task, or of each sample's task."""
        del scale
        choice = self.heads.choice
        choice.require_same()
        if choice.rows is None:
            return product(x, self.heads.present(self.name).to(weight.dtype), bias)
        weights = self.heads.each(self.name).to(weight.dtype)
        rows = x.reshape(len(weights), -1, x.shape[-1])
        y = rows @ weights.transpose(1, 2)
        y = (y if bias is None else y + bias[:, None]).reshape(*x.shape[:-1], weights.shape[1])
        return self.heads.without_padding(self.name, y)

    def added_to(self, base: Tensor, scale: float, *, drop: bool = False) -> Tensor:
        """Return the parameter of the present task, in the dtype of the model's own."""
        del scale, drop
        self.heads.choice.require_same()
        if self.heads.choice.rows is None:
            return self.heads.present(self.name).to(base.dtype)
        if not self.direct:
            raise AdaptError(
                f"{self.name!r} has no single value in a mixed batch",
                cause="every sample has the head of its own task, and this layer is not a plain linear one",
                fix="bank.map(x, tasks)",
            )
        return self.heads.each(self.name).to(base.dtype)


def _key(name: str) -> str:
    return name.replace(".", "/")


def _classes_of(model: nn.Module, modules: Sequence[str]) -> int | None:
    """Return the number of classes: the outputs of the head's last linear layer; None if it has none."""
    found = [module for name in modules if isinstance(module := model.get_submodule(name), nn.Linear)]
    return found[-1].out_features if found else None


def _is_last(name: str, modules: Sequence[str]) -> bool:
    return name.rpartition(".")[0] == modules[-1]


def _padded(rows: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors with zeros added, so that all have the most rows."""
    most = max((row.shape[0] for row in rows if row.dim()), default=0)
    return [_longer(row, most) if row.dim() else row for row in rows]


def _longer(row: Tensor, most: int) -> Tensor:
    return torch.cat([row, row.new_zeros(most - row.shape[0], *row.shape[1:])]) if row.shape[0] < most else row
