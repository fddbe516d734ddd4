"""Measured tricks below the libraries; each has a fallback."""
