"""Gradients → steps: algorithms, schedules, clipping."""
