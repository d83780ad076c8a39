"""Models behind HTTP servers, of whatever kind.

::

    openai.py            the backend
    endpoint.py          one server: its address, client and protocol
    servers.py           what differs from server to server, as data
    protocols/           how each kind of route is spoken
    sending.py           one request, repeated where that may help
    connections.py       connections, kept and dropped
    chunks.py            what a server sent, read and checked
    response_streams.py  bodies read line by line and to their end
    stop_strings.py      steps that the server ends by itself
    errors.py            what a failure means, in words
    check.py             `glimp check`: what a server can do
    check_chat.py        the same for servers that only continue chats
    probing.py           single requests that find something out
"""
