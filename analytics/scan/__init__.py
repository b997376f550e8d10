"""`scan`: raw blocks and values of a model as Arrow record batches."""
