"""Formats, plans and models that each break one law: what the conformance kit has to find."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorfact import Format, Group, MatrixBatch, Rule, TensorizationPlan, TensorTrain
from tensorfact.errors import FormatError
from tensorfact.formats import Decomposition
from tensorfact.network import Core, Mode, Network
from tensorfact.plan import ResolvedPlan, TensorGroup
from tests.helpers import randomise
from tests.planted import PLANTED


class Undecorated(TensorTrain):
    """No frozen dataclass of its own."""


@dataclasses.dataclass(frozen=True)
class NotJson(TensorTrain):
    """An option that JSON does not hold."""

    taste: frozenset[str] = frozenset({"sweet"})


_calls = itertools.count()


@dataclasses.dataclass(frozen=True)
class NotTheSame(TensorTrain):
    """Non-determinism: another name at every call."""

    def network(self, modes: Sequence[Mode]) -> Network:
        network = super().network(modes)
        last = dataclasses.replace(network.cores[-1], name=f"V{next(_calls)}")
        return dataclasses.replace(network, cores=(*network.cores[:-1], last))


@dataclasses.dataclass(frozen=True)
class WrongOrder(TensorTrain):
    """Wrong mode order: the output follows the chain, not the tensor."""

    def network(self, modes: Sequence[Mode]) -> Network:
        network = super().network(modes)
        return dataclasses.replace(network, output=tuple(mode.name for mode in self._chain(modes)))


@dataclasses.dataclass(frozen=True)
class WrongCount(TensorTrain):
    """A formula that forgets a core."""

    def num_parameters(self, modes: Sequence[Mode]) -> int:
        return super().num_parameters(modes) - modes[-1].size


class Loose(Network):
    """A network that equals any other with as many cores, so that one's order is taken for another's."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loose) and len(other.cores) == len(self.cores)

    def __hash__(self) -> int:
        return len(self.cores)


@dataclasses.dataclass(frozen=True)
class NotDense(TensorTrain):
    """Its networks are not told apart."""

    def network(self, modes: Sequence[Mode]) -> Network:
        network = super().network(modes)
        return Loose(network.cores, network.output, network.sizes)


@dataclasses.dataclass(frozen=True)
class Middle(Format):
    """Two matrices with a given one between them, of `size` times the identity: nothing is wrong with it at size 1."""

    rank: int = 2
    size: float = 1.0

    def network(self, modes: Sequence[Mode]) -> Network:
        inputs, outputs = ([mode.name for mode in modes if (mode.side == "out") == out] for out in (False, True))
        cores = (
            Core("A", (*inputs, "_r")),
            Core("M", ("_r", "_s"), "given", trained=False),
            Core("B", ("_s", *outputs), "zero"),
        )
        sizes = {mode.name: mode.size for mode in modes} | {"_r": self.rank, "_s": self.rank}
        return Network(cores, tuple(mode.name for mode in modes), sizes)

    def given(self, modes: Sequence[Mode]) -> Mapping[str, Tensor]:
        return {"M": self.size * torch.eye(self.rank)}


@dataclasses.dataclass(frozen=True)
class NotFinite(Middle):
    """Infinity times zero is no number."""

    size: float = float("inf")

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> Mapping[str, Tensor]:
        raise FormatError("no decomposition")


@dataclasses.dataclass(frozen=True)
class Loud(Middle):
    """A given core of another scale."""

    size: float = 10.0


@dataclasses.dataclass(frozen=True)
class GivenFitted(Middle):
    """The given core is scaled, and another makes up for it."""

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> Mapping[str, Tensor]:
        found = super().factorize(tensor, modes)
        return {**found, "M": found["M"] * 2, "B": found["B"] / 2}


@dataclasses.dataclass(frozen=True)
class DeadFactor(TensorTrain):
    """Two cores start at zero, one of them by another name."""

    def network(self, modes: Sequence[Mode]) -> Network:
        return super().network(modes).started({"U": "constant:1e-300"})  # zero in fp32


@dataclasses.dataclass(frozen=True)
class TakenName(TensorTrain):
    """A core called as the input of the activation route is."""

    def network(self, modes: Sequence[Mode]) -> Network:
        network = super().network(modes)
        first = dataclasses.replace(network.cores[0], name="x")
        return dataclasses.replace(network, cores=(first, *network.cores[1:]))


@dataclasses.dataclass(frozen=True)
class TakenLeg(MatrixBatch):
    """A bond called as the leg over the samples of a mixed batch is."""

    def network(self, modes: Sequence[Mode]) -> Network:
        network = super().network(modes)
        [bond, *_] = [leg for leg in network.sizes if leg not in network.output]
        sizes = {"(sample)" if leg == bond else leg: size for leg, size in network.sizes.items()}
        cores = [
            dataclasses.replace(core, legs=tuple("(sample)" if leg == bond else leg for leg in core.legs))
            for core in network.cores
        ]
        return dataclasses.replace(network, cores=tuple(cores), sizes=sizes)

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        return MatrixBatch(self.rank).factorize(tensor, modes)


@dataclasses.dataclass(frozen=True)
class Transposed(MatrixBatch):
    """A core with its dimensions the other way round."""

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        found = super().factorize(tensor, modes)
        return {**found, "A": found["A"].mT}


@dataclasses.dataclass(frozen=True)
class OtherDtype(TensorTrain):
    """Whatever comes, fp64 goes."""

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        return {name: core.double() for name, core in super().factorize(tensor, modes).items()}


@dataclasses.dataclass(frozen=True)
class RandomSigns(TensorTrain):
    """Two cores change their signs by torch's own random state."""

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        found, sign = super().factorize(tensor, modes), torch.randn(()).sign()
        return {**found, "U": found["U"] * sign, "V": found["V"] * sign}


@dataclasses.dataclass(frozen=True)
class WrongSign(TensorTrain):
    """Sign of scale: the other way."""

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        found = super().factorize(tensor, modes)
        return {**found, "V": -found["V"]}


@dataclasses.dataclass(frozen=True)
class GuessedError(TensorTrain):
    """An error that is not measured."""

    def decompose(self, *arguments: Any, **options: Any) -> Decomposition:
        found = super().decompose(*arguments, **options)
        return dataclasses.replace(found, error=found.error / 2)


FORMATS: dict[str, Format] = {
    "immutable": Undecorated(2),
    "options survive JSON": NotJson(2),
    "equal arguments, equal network": NotTheSame(2),
    "modes in order": WrongOrder(2),
    "given cores fit": PLANTED["given cores fit", "another shape"],
    "count": WrongCount(2),
    "dense": NotDense(2),
    "zero start": NotFinite(),
    "every core learns": DeadFactor(2),
    "scale of the start": Loud(),
    "routes agree": TakenName(2),
    "tasks": TakenLeg(2),
    "cores in shape": Transposed(2),
    "given cores stay": GivenFitted(),
    "dtype and device kept": OtherDtype(2),
    "decomposition repeats": RandomSigns(2),
    "sign and size": WrongSign(2),
    "error is true": GuessedError(2),
    "error falls with rank": PLANTED["error falls with rank", "one component, and not the best"],
}
"""A format that breaks a law and no other, by the law's name."""


# ------------------------------------------------------------------------------------------------------ plans, models


class Layers(nn.Module):
    """Linear layers one after another."""

    def __init__(self, count: int = 2, width: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.gelu(layer(x))
        return x


class AsksTheType(Layers):
    """It works otherwise with layers that are not exactly torch's."""

    def forward(self, x: Tensor) -> Tensor:
        plain = all(type(layer) is nn.Linear for layer in self.layers)
        return super().forward(x) if plain else 2 * super().forward(x)


class Unfreezes(Layers):
    """Its forward sets `requires_grad` on its weights."""

    def forward(self, x: Tensor) -> Tensor:
        for parameter in self.parameters():
            parameter.requires_grad_(True)
        return super().forward(x)


class KeepsWeightsAside(Layers):
    """It reads what is stored beside what is effective."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.gelu(layer(x) + F.linear(x, cast("Tensor", layer._parameters["weight"])))
        return x


class Rounded(nn.Parameter):
    """A parameter that rounds what is copied into it."""

    def copy_(self, other: Tensor, non_blocking: bool = False) -> Tensor:
        return super().copy_(other.bfloat16(), non_blocking)


class HoldsNoCopy(Layers):
    """Its weights are rounded."""

    def __init__(self) -> None:
        super().__init__()
        for layer in self.layers:
            setattr(layer, "weight", Rounded(layer.get_parameter("weight").detach()))  # noqa: B010


def holding_no_copy() -> nn.Module:
    """Return a model of numbers that its parameters do not hold when they are copied back."""
    model = randomise(HoldsNoCopy())
    for parameter in model.parameters():
        parameter.data.add_(1e-4)
    return model


class Unused(Layers):
    """Its last layers do nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.layers[0](x))


class Resolved(TensorizationPlan):
    """A plan that makes something else of what it resolved."""

    def resolve(self, model: nn.Module) -> ResolvedPlan:
        return self.changed(super().resolve(model), model)

    def changed(self, resolved: ResolvedPlan, model: nn.Module) -> ResolvedPlan:
        return resolved


class FlippedGather(TensorGroup):
    """It folds into the wrong places."""

    def gather(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return super().gather(parameters).flip(0)


class Negated(TensorGroup):
    """It unfolds and folds with another sign."""

    def gather(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return -super().gather(parameters)

    def scatter(self, dense: Tensor) -> dict[str, Tensor]:
        return super().scatter(-dense)


def as_kind(resolved: ResolvedPlan, kind: type[TensorGroup]) -> ResolvedPlan:
    """Return a resolved plan whose tensors are of another class."""
    tensors = (
        kind(**{field.name: getattr(tensor, field.name) for field in dataclasses.fields(tensor)})
        for tensor in resolved.tensors
    )
    return dataclasses.replace(resolved, tensors=tuple(tensors))


class GathersWrong(Resolved):
    """Its tensors are gathered in another order than scattered."""

    def changed(self, resolved: ResolvedPlan, model: nn.Module) -> ResolvedPlan:
        return as_kind(resolved, FlippedGather)


class ScattersWrong(Resolved):
    """Its slices are not those of the layers."""

    def changed(self, resolved: ResolvedPlan, model: nn.Module) -> ResolvedPlan:
        return as_kind(resolved, Negated)


class DropsParameters(Resolved):
    """It does not say what it leaves out."""

    def changed(self, resolved: ResolvedPlan, model: nn.Module) -> ResolvedPlan:
        return dataclasses.replace(resolved, left_out=())


class SetsTheMode(Resolved):
    """It leaves the model in training mode."""

    def changed(self, resolved: ResolvedPlan, model: nn.Module) -> ResolvedPlan:
        model.train()
        return resolved


class SwapsLayers(Resolved):
    """It places the layers otherwise than its groups say; a file holds the groups."""

    def changed(self, resolved: ResolvedPlan, model: nn.Module) -> ResolvedPlan:
        (tensor,) = resolved.tensors
        first, second = tensor.views
        views = (dataclasses.replace(first, index=second.index), dataclasses.replace(second, index=first.index))
        return dataclasses.replace(resolved, tensors=(dataclasses.replace(tensor, views=views),))


class Forgets(TensorizationPlan):
    """Its JSON is another plan's."""

    def to_json(self) -> str:
        return super().to_json().replace("layer in out", "layer out in")


def case(
    plan: type[TensorizationPlan] = TensorizationPlan, model: nn.Module | None = None
) -> tuple[TensorizationPlan, nn.Module]:
    """Return a plan over the weights of `Layers`, and a model."""
    group = Group("stack", "layer in out", (Rule("layers.{layer}.weight", "out in"),))
    return plan((group,)), randomise(model or Layers())


PLANS: dict[str, tuple[TensorizationPlan, nn.Module]] = {
    "gather after scatter": case(GathersWrong),
    "every parameter once": case(DropsParameters),
    "plan survives JSON": case(Forgets),
    "resolving writes nothing": case(SetsTheMode, Layers().eval()),
    "fresh adapter changes nothing": case(model=AsksTheType()),
    "slices are weights": case(ScattersWrong),
    "base stays frozen": case(model=Unfreezes()),
    "plan's routes agree": case(model=KeepsWeightsAside()),
    "unmerge restores": (case()[0], holding_no_copy()),
    "save and load": case(SwapsLayers),
    "every parameter is alive": case(model=Unused(3)),
}
"""A plan and a model that break a law and no other, by the law's name."""
