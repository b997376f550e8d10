"""The open model, and the functions that people call."""
