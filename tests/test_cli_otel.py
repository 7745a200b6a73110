"""`--otel`: a process of its own exports to a collector, which reads what OTLP says."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cyclopts")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

pytestmark = pytest.mark.processes

COMMAND = [sys.executable, "-m", "agentpool.cli"]

MANIFEST = """
name = "{name}"

[[script.steps]]
text = "{reply}"
"""

FLEET = """
[pool]
max_concurrent = 2

[[agents]]
manifest = "first.toml"
query = "SECRETQUERY"

[[agents]]
manifest = "second.toml"
query = "two"
"""


class Collector:
    """Takes spans and metrics by OTLP over HTTP, on this machine."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.scopes: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.metrics: set[str] = set()
        self.answer = 200
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if collector.answer == 200:
                    collector.take(self.path, body)
                self.send_response(collector.answer)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(values_of(resource.resource.attributes))
                for scope in resource.scope_spans:
                    self.scopes.append(scope)
                    self.spans += scope.spans
        else:
            for metrics in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for each in metrics.scope_metrics:
                    self.metrics.update(metric.name for metric in each.metrics)

    def named(self, name: str) -> Any:
        (span,) = [span for span in self.spans if span.name == name]
        return span


def values_of(attributes: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        thread.join()
        collector.server.server_close()


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    (tmp_path / "first.toml").write_text(MANIFEST.format(name="first", reply="SECRETANSWER"))
    (tmp_path / "second.toml").write_text(MANIFEST.format(name="second", reply="two"))
    (tmp_path / "fleet.toml").write_text(FLEET)
    return tmp_path / "fleet.toml"


def run(*arguments: Any, text: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment = {**kept, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, input=text, check=False
    )


def test_a_run_arrives_at_a_collector_as_one_trace(collector: Collector, fleet: Path) -> None:
    done = run("run", fleet, "--otel", OTEL_EXPORTER_OTLP_ENDPOINT=collector.address)
    assert done.returncode == 0, done.stderr
    names = sorted(span.name for span in collector.spans)
    assert names == sorted(
        ["invoke_workflow", "invoke_agent first", "invoke_agent second", "turn 1", "turn 1", "chat", "chat"]
    )
    root = collector.named("invoke_workflow")
    assert {span.trace_id for span in collector.spans} == {root.trace_id}
    assert collector.named("invoke_agent first").parent_span_id == root.span_id
    assert collector.resources[0]["service.name"] == "agentpool"
    assert collector.scopes[0].schema_url == "https://opentelemetry.io/schemas/gen-ai/1.42.0"
    assert {"gen_ai.client.operation.duration", "agentpool.slots.limit"} <= collector.metrics
    assert "SECRET" not in str(collector.spans)


def test_the_standard_variables_are_obeyed(collector: Collector, fleet: Path) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    done = run(
        *("run", fleet, "--otel"),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.address,
        OTEL_METRICS_EXPORTER="none",
        OTEL_SERVICE_NAME="night-shift",
        OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="true",
        TRACEPARENT=parent,
    )
    assert done.returncode == 0, done.stderr
    assert collector.resources[0]["service.name"] == "night-shift"
    root = collector.named("invoke_workflow")
    assert root.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert root.parent_span_id.hex() == "b7ad6b7169203331"
    assert collector.metrics == set()
    assert "SECRETQUERY" in str(collector.spans)
    assert "SECRETANSWER" in str(collector.spans)


def test_a_run_and_its_resumption_are_traced(collector: Collector, fleet: Path, tmp_path: Path) -> None:
    journal = tmp_path / "run.db"
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address}
    assert run("run", fleet, "--journal", journal, "--otel", **variables).returncode == 0
    assert "invoke_agent first" in {span.name for span in collector.spans}
    collector.spans.clear()
    done = run("resume", journal, "--otel", **variables)
    assert done.returncode == 0, done.stderr
    assert collector.spans == []  # the run has ended: its report is printed again


def test_a_chat_is_traced(collector: Collector, fleet: Path) -> None:
    done = run(
        *("chat", fleet.parent / "second.toml", "--otel"),
        text="hello",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.address,
    )
    assert (done.returncode, done.stdout) == (0, "two\n"), done.stderr
    assert collector.named("chat").parent_span_id == collector.named("turn 1").span_id


def test_a_collector_that_refuses_changes_no_outcome(collector: Collector, fleet: Path) -> None:
    collector.answer = 400
    done = run("run", fleet, "--otel", "--json", OTEL_EXPORTER_OTLP_ENDPOINT=collector.address)
    assert done.returncode == 0
    assert '"exit_code": 0' in done.stdout


def test_what_is_not_installed_or_not_known_is_bad_input(fleet: Path) -> None:
    for variables, words in [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"}, "http/protobuf or grpc"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "pip install opentelemetry-exporter-otlp-proto-grpc"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "pip install opentelemetry-exporter-zipkin"),
    ]:
        done = run("run", fleet, "--otel", **variables)
        assert done.returncode == 2
        assert words in done.stderr


def test_without_the_sdk_the_install_is_named(fleet: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    (hidden / "opentelemetry").mkdir(parents=True)
    (hidden / "opentelemetry" / "__init__.py").write_text("raise ModuleNotFoundError('opentelemetry')")
    done = run("run", fleet, "--otel", PYTHONPATH=os.pathsep.join([str(hidden), *sys.path]))
    assert done.returncode == 2
    assert "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http" in done.stderr


def test_a_disabled_sdk_exports_nothing(collector: Collector, fleet: Path) -> None:
    done = run(
        *("run", fleet, "--otel"), OTEL_EXPORTER_OTLP_ENDPOINT=collector.address, OTEL_SDK_DISABLED="true"
    )
    assert done.returncode == 0
    assert collector.spans == []
