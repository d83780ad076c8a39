"""Models on HTTP servers of any kind.

::

    openai.py             the backend
    options.py            the backend's arguments, checked
    endpoint.py           one server: its address, its client and its requests
    servers.py            what differs from server to server, as data
    protocols/            how each kind of route is used

    completion_stream.py  one streamed completion, from the request to its end
    event_stream.py       bodies of responses, read as events or as lines
    replies.py            what servers may send, read and checked
    chunks.py             chunks of a stream parsed into tokens
    token_reader.py       the tokens of one stream, put right
    offered.py            tokens offered to whoever takes them where they arrive
    token_clock.py        how long a stream may go without a token
    stop_strings.py       streams that the server ends by itself, with their exact text

    client.py             requests and responses, with limits for what a server may send
    connection.py         one connection: a request is sent, its response read where it arrives
    dialing.py            making a connection: names, TCP, proxies, TLS
    sending.py            one request, with retries
    headers.py            headers and keys, checked
    pool.py               which connections may carry another request
    connections.py        connections: counted, and one kept ready
    users_client.py       a client of the openai package that a user has set up
    users_transport.py    requests through such a client's own HTTP client
    errors.py             failures of the HTTP client as errors of this project

    check.py              `glimp check`: what a server can do
    check_chat.py         its probes of continuation and caching
    probing.py            the small requests that probes make
"""
