"""Train on public tables with Tidemill and its peers: `python -m benchmarks.tables`."""
