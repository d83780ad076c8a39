"""What one call does: ask the models, build prompts, read streams, write steps, record all of it.

::

    loop.py            the routing loop: start here
    call.py            one call, and the hooks around it
    prepare.py         what a call needs before its first step
    ask_models.py      what both models say before it: capabilities and prompts
    failures.py        what any failure of a model becomes, and who goes on
    measuring.py       how H is computed, and what a threshold belongs to
    model_stream.py    one model in one call: glimpsed at, read, cancelled
    request_stream.py  its running request, repeated after a failure
    arrivals.py        what has arrived of a request, held against what was asked for
    counters.py        what its requests came to
    reply_events.py    from shown text to events: reasoning, answer, tool calls
    recorder.py        what goes into the trace
    strategy.py        how requests are made
    speed.py           how fast a pair of models is, measured
    pair_info.py       what frameworks ask about a pair before it answers
"""
