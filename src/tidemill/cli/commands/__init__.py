"""One module per command, in a folder per group of `tidemill --help`."""
