"""The method of the paper (arXiv 2601.05110, section 3), pure: no I/O, no clock, no framework.

::

    chain.py          one question's chain of thought as a state machine
    boundaries.py     where a step ends
    entropy.py        H of a token's distribution, in nats
    format_tokens.py  tokens that only format: bullets, list numbers, white space
"""
