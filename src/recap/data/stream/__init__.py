"""Chunks → batches, in an order that a position can resume."""
