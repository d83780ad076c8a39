"""Traces: what happened in a call, as data, as events while it runs, and as text or HTML.

::

    records.py   the data: a record for each step, usage, tool calls, sums
    trace.py     Trace and RoutedAnswer: data that save, load and show themselves
    events.py    what a caller sees while a call runs
    files.py     reads traces from files
    terminal.py  coloured text of a trace, for a terminal
    live.py      the same while the call runs
    html.py      a page, or a fragment for notebooks
"""
