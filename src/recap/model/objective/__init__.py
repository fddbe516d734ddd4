"""Outputs and labels → a loss for each task."""
