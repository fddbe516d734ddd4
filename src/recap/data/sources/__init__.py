"""The formats rows are read from."""
