"""One module per command of `tidemill`, named after it; `cli/app.py` lists them."""
