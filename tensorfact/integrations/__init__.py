"""Adapters in the checkpoints of trainers: one module for each library, imported by its name."""
