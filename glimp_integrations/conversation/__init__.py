"""From a conversation to the exact text that a model continues.

::

    prompt.py                messages checked, rendered and opened for thinking
    content_blocks.py        messages whose content comes in blocks, of any provider
    earlier_reasoning.py     which reasoning of earlier messages a model reads again
    text_agents.py           prompts of agents that are read by marks in their text
    template_workarounds.py  conversations that a chat template cannot read as they are
"""
