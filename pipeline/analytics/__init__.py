"""Questions to weights: scans, statistics, comparisons, and tensors in Python."""
