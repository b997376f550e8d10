"""What a large job costs; see `python -m benchmarks.scaling --help` and docs/scaling.md."""
