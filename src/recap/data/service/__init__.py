"""Rows that are read and encoded by other processes or hosts: a server that reads, and what asks it."""
