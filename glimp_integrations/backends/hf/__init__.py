"""Models that transformers runs in this process.

::

    loading.py   from a name, a folder or a GGUF file to a model and its tokenizer
    texts.py     text to token ids and back, piece by piece
    caches.py    KV caches: kept, cropped, dropped, put together for a batch
    sampling.py  the next token, by transformers' own processors; entropy
    streams.py   one request as the model's thread sees it
    runner.py    one model: prefill, decoding in batches, drafts
    devices.py   one thread per device, on which all of its models compute
    drafts.py    who proposes tokens in speculative decoding

Nothing here is imported before a local model is used; ``HuggingFaceBackend`` in
``backends/huggingface.py`` is the door.
"""
