"""Print the spans of a routed call in the terminal, without a collector.

pip install 'glimp-integrations[otel,llamacpp]' opentelemetry-sdk
python examples/telemetry.py
"""

from __future__ import annotations

import sys

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from glimp_integrations import GlimpRouter
from glimp_integrations.telemetry import GlimpInstrumentor


def line(span: ReadableSpan) -> str:
    """One line for a span: its seconds, its name, and the attributes that routing adds."""
    seconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
    attributes = {
        name.removeprefix("glimprouter."): value
        for name, value in (span.attributes or {}).items()
        if name in ("glimprouter.entropy", "glimprouter.tokens", "glimprouter.large_step_share")
    }
    return f"{seconds:7.2f} s  {span.name}  {attributes}\n"


def main(**options: object) -> None:
    provider = TracerProvider()
    provider.add_span_processor(
        SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stdout, formatter=line))
    )
    GlimpInstrumentor().instrument(tracer_provider=provider)
    with GlimpRouter(temperature=0, max_tokens=120, **options) as router:
        router.run("A train travels 120 km in 1.5 hours. How fast is it? Think step by step.")
    GlimpInstrumentor().uninstrument()


if __name__ == "__main__":
    main()
