"""What `recap serve` reads besides its models: the file of `--config`."""
