"""Replies of a certain shape: tool calls and JSON answers.

::

    spec.py               what a caller asks for: tools, a choice among them, a schema
    constraints.py        all of it for one conversation: what the models are shown, what
                          constrains the answer
    json_schema.py        JSON schemas: what grammar engines can express, what a call looks like
    schema_references.py  what a schema's references point to
    tool_formats.py       how model families write a call
    tool_parser.py        tool calls found in text, piece by piece
    xml_arguments.py      arguments in Qwen's XML, read in pieces
    argument_types.py     arguments written as plain text, read by the tool's schema
    json_values.py        JSON as models write it, read and written strictly
"""
