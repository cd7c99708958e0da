"""The data plane: answers predictions out of the shelf, and needs nothing else.

A request passes these files, top to bottom:

    server.py workers.py   processes, signals, graceful ends; sockets.py opens the port
    lane.py addresses.py   the fast lane: plain POSTs answered inside uvicorn's HTTP protocol
    app.py                 the ordinary lane: an ASGI app; hands on what is not the data plane's
    gateway.py             both lanes' one core: find the route, admit, answer, count
    routes.py              what a route is; how a path finds it
    keys.py limits.py      who may ask, and how often
    protocols/*.py         what bodies look like: one file a protocol, each returns its routes
    decode.py forms.py     a body to checked rows: the fast way, and the way that explains
    pack.py                checked rows to the arrays that the compiled model takes
    predictor.py turn.py   one loaded version; what runs together at the end of a loop turn
    work.py outputs.py     rows on their way through a model, and what it gave for them
    record.py journal.py   what was answered, on disk before it leaves (segments.py: the files)
    memory.py cache.py     what was answered before, without the model
    pool.py loading.py     which versions are in service; how one gets there from shelf.py's folder
    service.py             all of it, wired
    status.py probes.py    what the server says of itself
    metrics.py counts.py   what was counted, summed over processes
    openapi.py page.py     what the routes say of themselves; *_schema.py: their parts of it
    settings.py            what an operator sets

To add a protocol, write `protocols/<name>.py` with `protocol(service) -> Protocol` and name it in
`service.py`. A handler reads `call.head` and `call.body`, and either returns a `Reply` or hands
checked rows to `predictor.submit(call, rows, finish)`, where `finish(call, outputs, start, stop)`
makes the reply out of the answers. It raises `tidemill.errors`; its route says how they look.
"""
