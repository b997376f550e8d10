"""Benchmarks: kernels, the whole conversion against its I/O floor, and start-up."""
