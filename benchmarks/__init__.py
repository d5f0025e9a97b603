"""Benchmarks: `python -m benchmarks` prints tables of ratios with their targets, and writes them as JSON."""
