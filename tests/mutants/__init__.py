"""Mutation tests: change the package in one point, and see whether a test fails: `python -m tests.mutants`."""
