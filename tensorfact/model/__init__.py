"""What is asked of an `nn.Module`: its parameters and who owns them, sides, the head, what stacks, an example input."""
