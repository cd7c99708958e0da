"""Operating an installation: backup, restore, the doctor's checks, and signal handling.

Called by the CLI and by processes that stop on a signal.
"""
