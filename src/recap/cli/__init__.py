"""The command line: a file per command, which imports what it runs only when it runs."""
