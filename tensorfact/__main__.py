"""`python -m tensorfact`: the command line."""

from .cli import main

main()
