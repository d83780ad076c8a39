"""What happened in a call: data, events while it runs, and views of both.

::

    trace.py     one record a step, totals, usage
    events.py    what a caller sees while a call runs
    files.py     traces read from files
    terminal.py  coloured, for a terminal
    live.py      the same while the call runs
    html.py      as a page, or a part of one
"""
