"""`python -m recap` is `recap`."""

from recap.cli.main import main

main()
