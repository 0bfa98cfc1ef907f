"""What operators are told to watch is there to be watched."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from pathlib import Path

import httpx2
import pymongo
import pytest

from app.metrics import resident_bytes
from faces.database import LEASES, Document

pytestmark = pytest.mark.xdist_group("api")
DOCS = Path(__file__).resolve().parents[3] / "docs"
NAME = re.compile(r"\b(?:likeness|process)_[a-z_]+")


def rules() -> list[tuple[str, str]]:
    """The alerts with their expressions."""
    text = (DOCS / "alerts.yml").read_text()
    return re.findall(r"- alert: (\w+)\n +expr: (.+)", text)


def panels() -> list[str]:
    """The dashboard's expressions."""
    made = json.loads((DOCS / "dashboard.json").read_text())
    return [target["expr"] for panel in made["panels"] for target in panel["targets"]]


def families(text: str) -> set[str]:
    """The names that a scrape's series may have."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        ends = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {name + end for end in ends}
    return found


def value(text: str, name: str) -> float:
    """The value of a series without labels."""
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])


def test_every_metric_of_the_alerts_and_the_dashboard_is_served(client: httpx2.Client) -> None:
    known = families(client.get("/metrics").text)
    for expression in [*panels(), *(expression for _, expression in rules())]:
        assert set(NAME.findall(expression)) <= known, expression


def test_every_state_that_an_alert_names_is_one_of_a_part(client: httpx2.Client) -> None:
    text = client.get("/metrics").text
    parts = set(re.findall(r'likeness_state\{part="(\w+)"', text))
    named = {part for _, expr in rules() for part in re.findall(r'part="(\w+)"', expr)}
    assert named
    assert named <= parts


def test_every_alert_has_a_line_on_what_to_do() -> None:
    told = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "operate.md").read_text(), re.MULTILINE))
    assert told == {name for name, _ in rules()}


def test_the_database_pool_is_counted(client: httpx2.Client) -> None:
    client.get("/v1/collections")
    text = client.get("/metrics").text
    most = value(text, "likeness_database_connections_max")
    assert 1 <= value(text, "likeness_database_connections_open") <= most
    assert 0 <= value(text, "likeness_database_connections_in_use") <= most
    assert value(text, "likeness_database_waiting") == 0
    assert value(text, "likeness_database_refused") == 0


def test_the_index_lag_is_the_one_that_the_worker_measured(
    client: httpx2.Client, migrated: dict[str, str]
) -> None:
    assert math.isnan(value(client.get("/metrics").text, "likeness_index_lag_seconds"))
    with pymongo.MongoClient[Document](migrated["MONGODB_URI"]) as direct:
        leases = direct[migrated["MONGODB_DATABASE"]][LEASES]
        at = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=100)
        leases.insert_one({"_id": "index-lag", "kind": "lag", "seconds": 0.75, "at": at})
        try:
            text = client.get("/metrics").text
        finally:
            leases.delete_one({"_id": "index-lag"})
    assert value(text, "likeness_index_lag_seconds") == 0.75
    assert 100 <= value(text, "likeness_index_lag_age_seconds") < 160


def test_memory_counts_the_children_too(client: httpx2.Client) -> None:
    text = client.get("/metrics").text
    own = value(text, "process_resident_memory_bytes")
    assert value(text, "likeness_resident_bytes") > own  # the decoder is a process of its own
    assert resident_bytes() > 10e6
