"""Benchmarks: kernels, the whole conversion against its I/O floor, start-up, and experiments."""
