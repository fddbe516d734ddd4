"""Formats of lines: CSV and JSON lines. The configuration decides how a column is read, never its values."""
