"""Processes on this machine that `up`, `serve`, `demo` and `replay` start and supervise."""
