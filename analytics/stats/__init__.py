"""`stats`: what the values of every tensor are like."""
