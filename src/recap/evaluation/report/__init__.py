"""The report of a run: one page that opens offline, the same numbers as JSON, and a model card."""
