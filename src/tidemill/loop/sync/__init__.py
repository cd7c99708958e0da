"""Keeps the shelf in step with the model registry, including versions registered without a bundle.

Its processes run next to the server: `process` (also `python -m tidemill.loop.sync`) and
`pyfunc_supervisor`. It writes the shelf that `serving` reads.
"""
