"""What the commands of `recap data` and `recap config` do with data: a module per command."""
