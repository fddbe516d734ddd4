"""Batches to probabilities."""
