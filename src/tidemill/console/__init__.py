"""The console: pages that people look at, over the same platform, stores and loop as the API.

    app.py          the pages and actions by path; `create_console` is all that others need
    session.py      who is signed in: a key, a signed cookie, a time-out
    visit.py        one request: what a page is given, and what it may answer with
    live.py         a page that changes while somebody looks at it
    context.py         what all pages share; recent.py: answers of slow parts, at most seconds old
    traffic.py      requests a second and how long they take, from the data plane's own metrics
    render.py       values as HTML; charts.py: values as drawings in SVG
    overview.py models.py compare.py decide.py trying.py monitoring.py jobs.py ordering.py
    records.py settings_page.py
                    the pages, each a function of a visit

Pages are made here, on the server, and shown again whenever what they say has changed; the scripts
in `static/` only put the new page in the old one's place, and help with forms. Nothing is loaded
from anywhere else.
"""
