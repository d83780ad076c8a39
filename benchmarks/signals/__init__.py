"""Which signal should decide who writes the next step? See ``benchmarks/signals/__main__.py``."""
