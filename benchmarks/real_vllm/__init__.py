"""The real vLLM on this machine's CPU: installed, started, routed against.

    python -m benchmarks.real_vllm install
    python -m benchmarks.real_vllm convert
    python -m benchmarks.real_vllm prove --json figures.json

The server gets a virtual environment of its own: its pins fit no other project.
"""
