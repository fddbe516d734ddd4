"""Requests wait in a queue, share forward passes, and are shed when the server is too slow."""
