"""A span for each call over HTTP, by OpenTelemetry: the extra `otel`.

Nothing of it is imported unless `OTEL_EXPORTER_OTLP_ENDPOINT` is set. The `traceparent` of a
request goes upstream as it came; the span stands beside the upstream's, below the agent's.
"""

import os
import threading
from collections.abc import Callable, Mapping
from typing import Final

from coatcheck_sidecar import logs
from coatcheck_sidecar.ports import Clock

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
SERVICE: Final = "coatcheck"
FLUSH_S: Final = 0.5
"""What the end of a process waits for its last spans, when all that matters is shipped."""
NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000
ATTRIBUTES: Final = ("tool", "decision", "effect", "run")

OnCall = Callable[[Mapping[str, object]], None]
"""Takes the fields of an `exchange` event, when it is over."""


def tracing(clock: Clock, *, version: str) -> tuple[OnCall, Callable[[], None]] | None:
    """What makes spans, and what sends the last of them; `None` if nobody asked for it.

    The rest is set by the `OTEL_*` variables that every OpenTelemetry SDK knows.
    """
    if not os.environ.get(ENDPOINT):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError as error:
        logs.write("warning", "tracing_off", why=f"{ENDPOINT} is set, but: {error}")
        return None
    about = {"service.version": version}
    if "OTEL_SERVICE_NAME" not in os.environ:
        about["service.name"] = SERVICE
    provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer(SERVICE, version)
    propagator = TraceContextTextMapPropagator()

    def on_call(fields: Mapping[str, object]) -> None:
        seconds, parent = fields.get("seconds"), fields.get("traceparent")
        ended_ns = clock.wall_ms() * NS_PER_MS
        took_ns = int(seconds * NS_PER_S) if isinstance(seconds, int | float) else 0
        span = tracer.start_span(
            f"call {fields.get('tool', '')}",
            context=propagator.extract({"traceparent": str(parent)}) if parent else None,
            kind=SpanKind.CLIENT,
            attributes={f"coatcheck.{name}": str(fields.get(name, "")) for name in ATTRIBUTES},
            start_time=ended_ns - took_ns,
        )
        span.end(end_time=ended_ns)

    def flush() -> None:
        """The SDK's own time-out bounds nothing (1.45: 10 s a batch), so a thread is left to it."""
        sending = threading.Thread(target=provider.force_flush, daemon=True)
        sending.start()
        sending.join(FLUSH_S)

    return on_call, flush
