"""Configuration files: read, validated, compared, written and documented. The schema itself does not know of files."""
