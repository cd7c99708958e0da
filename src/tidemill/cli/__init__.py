"""The `tidemill` command line. `app` lists the commands; command X is in `commands/X.py`.

`local/` starts processes on this machine for `up`, `serve`, `demo` and `replay`.
"""
