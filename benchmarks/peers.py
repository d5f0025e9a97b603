"""Methods that the benchmarks compare: each makes a copy of one model trainable."""

from __future__ import annotations

import copy
from collections.abc import Callable

import peft
import timm
import torch
from torch import Tensor, nn

from tensorfact import CP, Format, MatrixBatch, TensorTrain, Tucker, adapt, plan_for
from tensorfact.adapters.options import Route
from tensorfact.lab.measure import freeze_to_floor
from tensorfact.model.parameters import base_parameters

RANK = 16
FIRST = "blocks.0.attn.qkv.weight"
LINEAR = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]

Peer = Callable[[nn.Module], nn.Module]
"""Makes a model trainable in place, and returns the module to call."""


def vit(name: str, device: str = "cpu") -> nn.Module:
    """Return a randomly initialised ViT of timm with 100 classes."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, num_classes=100)
    return model.to(device)


def resnet(device: str = "cpu", name: str = "resnet50") -> nn.Module:
    """Return a randomly initialised convolutional network of timm with 100 classes."""
    torch.manual_seed(0)
    with torch.device(device):
        model: nn.Module = timm.create_model(name, num_classes=100)
    return model


def floor(model: nn.Module) -> nn.Module:
    """Freeze all but the head, with gradients through every block: a lower bound for methods that adapt every block."""
    freeze_to_floor(model, FIRST)
    return model


def adapted(format: Format, **options: bool | str) -> Peer:
    """Return a peer: a tensorfact adapter on every linear layer."""

    def attach(model: nn.Module) -> nn.Module:
        adapt(model, plan_for(model), format, seed=0, check=False, **options)  # type: ignore[arg-type]
        return model

    return attach


def convolved(route: Route = "auto") -> Peer:
    """Return a peer: a tensor train on every convolution without groups, of lower ranks where a tensor is small."""

    def attach(model: nn.Module) -> nn.Module:
        plan = plan_for(model)
        adapt(model, plan, plan.resolve(model).fitted(TensorTrain(RANK)), seed=0, check=False, route=route)
        return model

    return attach


def lora_of_convolutions(model: nn.Module) -> nn.Module:
    """Attach peft's LoRA to the convolutions that the plan of the model has."""
    layers = [name.removesuffix(".weight") for name in plan_for(model).resolve(model).parameters]
    wrapped: nn.Module = peft.get_peft_model(model, peft.LoraConfig(r=RANK, target_modules=layers))
    return wrapped


def lora(layers: list[str]) -> Peer:
    """Return a peer: LoRA by peft, of the same rank, on some layers; the head trains as well."""

    def attach(model: nn.Module) -> nn.Module:
        config = peft.LoraConfig(r=RANK, target_modules=layers, modules_to_save=["head"])
        wrapped: nn.Module = peft.get_peft_model(model, config)
        return wrapped

    return attach


def full(model: nn.Module) -> nn.Module:
    """Train every parameter."""
    return model.requires_grad_()


class SeparateCalls(nn.Module):
    """A linear layer with FacT-TT as in its released code: three calls for each matrix.

    Args:
        linear: The frozen layer.
        u: Layer with weight (rank, width), shared by all layers.
        v: Layer with weight (width, rank), shared by all layers.
        chunks: Number of matrices into which the outputs (q, k, v; first layer of the MLP) or the inputs are split.
        over_inputs: Split the inputs instead of the outputs.
    """

    def __init__(self, linear: nn.Linear, u: nn.Linear, v: nn.Linear, chunks: int, *, over_inputs: bool) -> None:
        super().__init__()
        self.linear, self.chunks, self.over_inputs = linear, chunks, over_inputs
        self.__dict__.update(u=u, v=v)  # registered once, on the model
        self.middle = nn.ModuleList(nn.Linear(RANK, RANK, bias=False) for _ in range(chunks))

    u: nn.Linear
    v: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the layer plus the increments of its matrices."""
        y: Tensor = self.linear(x)
        inputs = x.chunk(self.chunks, -1) if self.over_inputs else [x] * self.chunks
        parts = [self.v(middle(self.u(part))) for middle, part in zip(self.middle, inputs, strict=True)]
        return y + (sum(parts[1:], parts[0]) if self.over_inputs else torch.cat(parts, -1))


def separate_calls(model: nn.Module) -> nn.Module:
    """Attach FacT-TT to a ViT as its released code does."""
    for name, parameter in base_parameters(model).items():
        parameter.requires_grad_(name.startswith("head."))
    width = base_parameters(model)["blocks.0.attn.proj.weight"].shape[1]
    u, v = nn.Linear(width, RANK, bias=False), nn.Linear(RANK, width, bias=False)
    nn.init.zeros_(v.weight)
    for block in model.get_submodule("blocks").children():
        for path in LINEAR:
            parent, _, attribute = path.rpartition(".")
            linear = block.get_submodule(path)
            assert isinstance(linear, nn.Linear)
            over_inputs = linear.in_features > width
            chunks = max(linear.in_features, linear.out_features) // width
            wrapped = SeparateCalls(linear, u, v, chunks, over_inputs=over_inputs)
            setattr(block.get_submodule(parent), attribute, wrapped)
    model.add_module("u", u)
    model.add_module("v", v)
    return model.to(next(model.parameters()).device)


PEERS: dict[str, Peer] = {
    "tensor-train": adapted(TensorTrain(RANK)),
    "tensor-train, recompute": adapted(TensorTrain(RANK), recompute=True),
    "Tucker": adapted(Tucker(RANK)),
    "CP": adapted(CP(RANK)),
    "matrix-batch": adapted(MatrixBatch(RANK)),
    "tensor-train, forming dW": adapted(TensorTrain(RANK), route="weight"),
    "separate U, S, V calls": separate_calls,
    "peft LoRA, all linear": lora(LINEAR),
    "peft LoRA, q k v": lora(["attn.qkv"]),
    "full fine-tuning": full,
}
"""Peers by label. peft adapts a fused qkv weight as one matrix, so there is a row for q k v and none for q v."""


CONVOLVED: dict[str, Peer] = {
    "tensor-train": convolved(),
    "tensor-train, forming dW": convolved("weight"),
    "peft LoRA": lora_of_convolutions,
    "full fine-tuning": full,
}
"""Peers on convolutional networks, by label."""


def copies(base: nn.Module, names: list[str]) -> dict[str, nn.Module]:
    """Return one trainable copy of a model for each label."""
    return {name: PEERS[name](copy.deepcopy(base)) for name in names}
