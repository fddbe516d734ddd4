"""A published configuration → ours."""
