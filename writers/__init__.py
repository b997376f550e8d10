"""Output formats: layout before data, any window at its offset."""
