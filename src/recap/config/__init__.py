"""The configuration of a run: `RecapConfig` and its sections. Imports no torch, so checking a file is fast."""
