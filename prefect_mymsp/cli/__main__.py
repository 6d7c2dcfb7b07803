"""Run the command line with ``python -m prefect_mymsp.cli``."""

from prefect_mymsp.cli import main

main()
