"""The console: server-rendered pages at /console. `app` lists the pages, `pages/` has their code.

It shares platform, stores and loop with the HTTP API in `api/`, which mounts it.
"""
