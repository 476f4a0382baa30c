"""Speeds, measured as ratios to a plain loop on the same machine; run from the repository's root, `python -m benchmarks.cpu`."""
