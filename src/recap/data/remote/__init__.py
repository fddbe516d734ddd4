"""Reading on other hosts."""
