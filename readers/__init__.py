"""Formats in: containers to spans, spans to logical tensors, tensors to Arrow record batches."""
