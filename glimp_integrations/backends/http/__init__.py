"""Models on HTTP servers of any kind.

::

    openai.py            the backend
    options.py           the backend's arguments, checked
    endpoint.py          one server: its address, its client and its requests
    servers.py           what differs from server to server, as data
    protocols/           how each kind of route is used
    sending.py           one request, with retries
    connections.py       connections: counted, and one kept ready
    chunks.py            chunks of a stream parsed into tokens
    response_streams.py  bodies of responses, read as events or as lines
    stop_strings.py      streams that the server ends by itself, with their exact text
    errors.py            failures of the HTTP client as errors of this project
    check.py             `glimp check`: what a server can do
    check_chat.py        its probes of continuation and caching
    probing.py           the small requests that probes make
"""
