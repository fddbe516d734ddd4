"""What a user may say: a file, checked and resolved. No torch here."""
