"""Tensor-network adapters and decompositions for neural networks."""

from .architectures import plan_for
from .formats import CP, Format, MatrixBatch, TensorTrain, Tucker
from .nano import nano
from .network import Core, Mode, Network
from .plan import TensorizationPlan
from .rules import Group, Rule
from .training import evaluate, fit
