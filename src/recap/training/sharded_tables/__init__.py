"""Embedding tables that no rank holds whole: TorchRec divides them, and updates them."""
