"""What the parts cost beside their alternatives: `python -m benchmarks.NAME --help`."""
