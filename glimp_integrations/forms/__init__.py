"""Replies of a certain form: tool calls and JSON answers.

``form``     what a caller asks for: tools, a choice among them, a schema
``calls``    finding tool calls in text, piece by piece
``dialects`` how model families write a call
``schemas``  JSON schemas: what the grammar engines can express, what a call has to look like
``plan``     all of it for one conversation: what is shown to the models, what binds the answer
"""
