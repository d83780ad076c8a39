"""Tools and JSON: replies that must have a certain form.

::

    spec.py                what a caller asks for: tools, a choice among them, a JSON schema
    constraints.py         the same for one conversation: when and how the answer is constrained
    instructions.py        what the models are told about it in words
    tool_formats.py        how model families write a tool call
    json_schema.py         what a grammar can express of a JSON schema; the schema of a tool call
    schema_references.py   references inside a JSON schema

    tool_parser.py         finds tool calls in text that arrives in pieces
    tool_call_patterns.py  regular expressions for the parts of a call
    tool_call_ids.py       ids for calls
    reply_text.py          the text around the calls
    json_scanner.py        finds where JSON ends in text that arrives in pieces
    json_values.py         JSON as models write it
    xml_arguments.py       arguments in Qwen's XML, turned into JSON
    argument_types.py      arguments written as plain text, read by the tool's schema
"""
