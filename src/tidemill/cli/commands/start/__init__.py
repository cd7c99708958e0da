"""Commands to get started: `up`, `demo`, `init` and `replay`."""
