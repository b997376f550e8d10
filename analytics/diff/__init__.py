"""`diff`: how far two models are from each other."""
