"""What sections of a configuration, each good by itself, do not agree about; `RecapConfig.checks` asks it."""
