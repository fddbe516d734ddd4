"""Metrics for each task: weighted, mergeable, in constant memory, independent of the order of rows."""
