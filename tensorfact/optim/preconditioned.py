"""AdamW whose steps on the cores of an adapter are measured in the weights that they change."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor

from ..adapters import Adapter
from ..adapters.rates import ENTRIES, first_change, inputs_of, weights_rms
from ..formats.common import zero_core
from ..network.starts import ZERO
from .preconditioner import TrainedCore, checked_adapter, checked_damping, inverse, trained_cores, wide


@dataclasses.dataclass(frozen=True, eq=False)
class _Measured:
    """A core and the length of its steps.

    Args:
        core: The core.
        length: The Frobenius norm of the change of its tensor by a step of learning rate 1, without the scale.
        bounded: Whether the change is also bounded by a multiple of the tensor's own norm.
    """

    core: TrainedCore
    length: float
    bounded: bool


def _measured(adapter: Adapter) -> Iterator[_Measured]:
    lengths = {}
    for tensor in adapter.resolved.tensors:
        network, scale = tensor.network(adapter.formats[tensor.name]), abs(adapter.scales[tensor.name])
        change = first_change(network, weights_rms(adapter.model, tensor), inputs_of(tensor))
        elements = math.prod(network.shape(network.output))
        lengths[id(adapter.factors[tensor.name])] = change * math.sqrt(elements) / scale if scale else 0.0
    for core in trained_cores(adapter):
        zero = zero_core(core.factors.network)
        bounded = core.name != zero.name or zero.start != ZERO
        yield _Measured(core, lengths[id(core.factors)], bounded)


class PreconditionedAdamW(torch.optim.AdamW):
    """AdamW that trains the cores of an adapter by steps that do not depend on how the increment is factored.

    A step on a core is its averaged gradient, multiplied by the inverse of the Gram matrix of the other cores, as in
    natural gradient descent. The second moment is kept for each open index of the core, such as an output, and measures
    the gradient in the same metric, so that a change of the basis of a bond changes nothing. A step of learning rate lr
    changes the weights by the same fraction as the first step of AdamW on an adapter of `scale="auto"`, at any scale,
    and those of a core other than the one that starts at zero by at most lr / 0.04 of the increment. All other
    parameters are trained by AdamW.

    Args:
        adapter: The adapter, attached to its model.
        params: Parameters or groups to train, as for any torch optimizer; default: all parameters of the model that
            require gradients.
        lr: The learning rate; schedulers may change it.
        betas: Decay of the averages of the gradient and of its square.
        eps: Added to the root of the second moment of parameters other than cores.
        weight_decay: Weight decay, relative to the learning rate.
        damping: What is added to the diagonal of each Gram matrix, as a multiple of its mean eigenvalue.

    Raises:
        AdaptError: `adapter` is neither an adapter nor an adapted model, or `damping` is not above 0.

    Source: for pairs of matrices, F. Zhang & M. Pilanci, Riemannian Preconditioned LoRA, ICML 2024; for second
        moments that are invariant, J.-N. Yen et al., LoRA Done RITE, ICLR 2025.

    Examples:
        >>> import torch
        >>> from tensorfact import adapt
        >>> from tensorfact.lab import nano
        >>> from tensorfact.optim import PreconditionedAdamW
        >>> model = nano()
        >>> optimizer = PreconditionedAdamW(adapt(model), lr=3e-3)
        >>> model(torch.zeros(1, 1, 28, 28)).square().sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        adapter: Adapter,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | None = None,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        damping: float = 1e-4,
    ) -> None:
        owner = checked_adapter(adapter, "PreconditionedAdamW")
        self._damping = checked_damping(damping, "PreconditionedAdamW")
        if params is None:
            params = [parameter for parameter in owner.model.parameters() if parameter.requires_grad]
        super().__init__(cast("Any", params), lr, betas, eps, weight_decay)
        self._cores = list(_measured(owner))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Perform one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = {id(parameter): group for group in self.param_groups for parameter in group["params"]}
        given = [each for each in self._cores if each.core.parameter.grad is not None]
        ours = [each for each in given if id(each.core.parameter) in groups]
        gradients = [cast("Tensor", each.core.parameter.grad) for each in ours]
        for each in ours:
            each.core.parameter.grad = None  # so that AdamW leaves the cores to us
        super().step()
        for each, gradient in zip(ours, gradients, strict=True):
            each.core.parameter.grad = gradient
        norms: dict[int, Tensor] = {}
        steps = [self._direction(each, groups[id(each.core.parameter)], norms) for each in ours]
        for each, change in zip(ours, steps, strict=True):
            parameter, group = each.core.parameter, groups[id(each.core.parameter)]
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change.to(parameter.dtype), alpha=-group["lr"])
        return loss

    def _direction(self, each: _Measured, group: dict[str, Any], norms: dict[int, Tensor]) -> Tensor:
        """Update the averages of a core, and return its step of learning rate 1.

        The norm of a tensor is computed from the first of its cores, and kept in `norms` for the others.
        """
        core, parameter = each.core, each.core.parameter
        gradient, (fade, fade_square) = wide(cast("Tensor", parameter.grad)), group["betas"]
        grams = core.grams()
        inverses = [inverse(gram, self._damping, relative=True) for gram in grams]
        bonds = [core.environment.core.legs.index(leg) for branch in core.environment.branches for leg in branch.bonds]
        square = gradient * core.multiply(inverses, gradient)
        square = (square.mean(bonds, keepdim=True) if bonds else square).clamp_min(0)
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(square)
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - fade)
        state["exp_avg_sq"].lerp_(square, 1 - fade_square)
        count = float(state["step"])
        root = (state["exp_avg_sq"] / (1 - fade_square**count)).sqrt()
        mean = core.multiply(inverses, state["exp_avg"] / (1 - fade**count))
        step = torch.where(root > 0, mean / root, 0.0) / math.sqrt(parameter.numel())
        if not each.bounded:
            return step * each.length
        if id(core.factors) not in norms:
            norms[id(core.factors)] = (parameter * core.multiply(grams, parameter)).sum().clamp_min(0).sqrt()
        return step * (norms[id(core.factors)] / ENTRIES).clamp_max(each.length)
