"""What commands print: progress, tables and messages."""
