"""The three demos of `tidemill demo`: hot swap, `--drift`, and `--url`."""
