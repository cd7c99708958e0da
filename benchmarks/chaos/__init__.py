"""Kills the processes of a running `tidemill up` at random and counts what was lost."""
