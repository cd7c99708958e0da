"""Tests new models in a process with limits before the server, or the sync process, loads them.

Used by `serving.service` and `loop.sync`.
"""
