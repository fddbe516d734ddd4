"""Reads, validates, compares, writes and documents configuration files; `recap.config` knows nothing of files."""
