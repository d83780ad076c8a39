"""The method of the paper (arXiv 2601.05110, section 3), pure: no I/O, no clock, no framework.

::

    rule.py           who writes the next step: start here
    policy.py         what a routing policy is: what it is told, what it says
    large_share.py    the policy that keeps a wanted share; priors.py: what it begins with
    budgets.py        what a call may take: tokens of the large model, money, time
    accounts.py       whether calls of a kind are routed at all
    chain.py          one question's chain of thought and answer, as a state machine
    chain_state.py    what is known of a chain: its steps, its phase, what may follow
    phases.py         what ends each phase of it, and what comes next
    proposals.py      calls that the small model begins, and the large one decides on
    reply.py          which of its text is reasoning, and which the visible reply
    steps.py          what a chain consists of, and why steps end
    boundaries.py     where a step ends, in text that arrives in pieces
    limits.py         how many tokens may still be written
    repetition.py     chains that go round in circles
    shared_text.py    the text that both models continue
    answer_plan.py    what a chain has to know of the answer's shape
    tokens.py         what a model writes
    entropy.py        H of a token's distribution, in nats
    format_tokens.py  tokens that only format: bullets, list numbers, white space
    think_tags.py     the tags that models think in
"""
