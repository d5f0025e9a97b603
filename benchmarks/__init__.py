"""Benchmarks: `python -m benchmarks` prints tables of ratios beside their targets, and writes JSON."""
