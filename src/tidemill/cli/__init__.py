"""The `tidemill` command line. `app` lists the commands; each is in `commands/GROUP/NAME.py`.

`local/` starts processes on this machine for `up`, `serve`, `demo` and `replay`.
"""
