"""Columns → tensors."""
