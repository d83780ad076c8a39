"""What one call does: models asked, prompts built, streams read, steps written, all of it recorded.

::

    loop.py          the routing loop
    prepare.py       what a call needs before its first step
    call.py          one call, and the hooks around it
    model_stream.py  one model's requests within a call
    strategy.py      how requests are made
    recorder.py      what goes into the trace
    text_kinds.py    whether shown text is reasoning or answer
    speed.py         how fast a pair of models is, measured
    pair_info.py     what frameworks ask about a pair before it answers
"""
