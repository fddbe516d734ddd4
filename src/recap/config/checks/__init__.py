"""What sections of a configuration must agree on."""
