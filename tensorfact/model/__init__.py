"""Queries on an `nn.Module`: its parameters and their owners, output dimensions, head, stacks, example input."""
