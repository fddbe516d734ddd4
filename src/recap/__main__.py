"""`python -m recap` is `recap`."""

from recap.cli.main import main

if __name__ == "__main__":  # processes that read data import this file again
    main()
