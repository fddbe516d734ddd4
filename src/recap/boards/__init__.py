"""Boards: rows × seeds, trained and evaluated on the same data, in one table. `run.py` is the loop."""
