"""Inputs: `Batch` → one vector per row, which the network reads."""
