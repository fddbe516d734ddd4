"""From gradients to weights: algorithms, schedules, clipping."""
