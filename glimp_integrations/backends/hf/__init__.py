"""Models that transformers runs in this process.

::

    backend.py        ``HuggingFaceBackend``
    loading.py        from a name, a folder or a GGUF file to a model and its tokenizer
    token_text.py     text to token ids and back, piece by piece
    engine.py         a loaded model, and the ways from an event loop to its thread
    device_thread.py  one thread per device, on which all of its models compute
    runner.py         the requests of one model: opened, computed in turn, closed
    decoder.py        the next tokens of one text, with or without a draft, or of several
    request.py        one request as the model's thread sees it
    batch.py          several requests that get their next token in one pass
    forward.py        a forward pass, whatever the signature of the model
    caches.py         KV caches: kept, cropped, dropped, put together for a batch
    sampling.py       the next token, by transformers' own processors; entropy
    speculative.py    drafters for speculative decoding
    grammar.py        answers that follow a JSON schema

Nothing here is imported before a local model is used.
"""
