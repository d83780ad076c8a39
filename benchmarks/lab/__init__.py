"""A latency laboratory: scripted servers with given costs, in real time.

GPU and hosted settings replayed on a laptop. The servers speak real HTTP, in the wire shapes of
llama.cpp and vLLM; what they write is a script, so every strategy decides alike and only time
differs.
"""
