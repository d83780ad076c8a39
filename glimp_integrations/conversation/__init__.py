"""From a conversation to the exact text that a model continues.

::

    messages.py              messages checked
    content_blocks.py        messages whose content comes in blocks, of any provider
    earlier_reasoning.py     which reasoning of earlier messages a model reads again
    control_tokens.py        texts that can never be read as control tokens
    prompt.py                all of it rendered, with the think block opened
    template_workarounds.py  conversations that a chat template cannot read as they are
    text_agents.py           prompts of agents that are read by marks in their text
"""
