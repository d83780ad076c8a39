"""Models that transformers runs in this process.

::

    backend.py        ``HuggingFaceBackend``
    loading.py        from a name, a folder or a GGUF file to a model and its tokenizer
    token_text.py     text to token ids and back, piece by piece
    caches.py         KV caches: kept, cropped, dropped, put together for a batch
    sampling.py       the next token, by transformers' own processors; entropy
    request.py        one request as the model's thread sees it
    runner.py         one model: prefill, decoding in batches, drafts
    device_thread.py  one thread per device, on which all of its models compute
    speculative.py    who proposes tokens in speculative decoding
    grammar.py        answers that follow a JSON schema

Nothing here is imported before a local model is used.
"""
