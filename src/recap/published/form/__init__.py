"""The schema of a published configuration."""
