"""Schemes: how stored tensors make up logical ones; one file a family."""
