"""A seeded fuzzer for everything that tensorfact reads: `python -m tests.fuzz --cases 12000 --seed 0`."""
