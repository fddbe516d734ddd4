"""Metrics per task: weighted, mergeable, in bounded memory, independent of the order of rows."""
