"""The running server: sockets, worker processes, uvicorn, the fast protocol and the ASGI app.

The top of `serving`: it runs `serving/service.py`. Routing and admission are in `serving/http`.
"""
