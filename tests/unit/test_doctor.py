"""The doctor's findings, from what it would see."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path
from typing import Any

import pytest

from app import doctor, doctor_database
from faces.search import index_definition
from faces.settings import Settings

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


def entry(name: str, key: str) -> str:
    return f"{name}:admin:{hashlib.sha256(key.encode()).hexdigest()}"


def settings(**values: Any) -> Settings:
    return Settings.model_validate(values)


@pytest.mark.parametrize("word", ["secret", "cms", "cms-key", "changeme"])
def test_a_key_that_can_be_guessed_is_a_failure_and_is_not_shown(word: str) -> None:
    (line,) = doctor.keys(settings(api_keys=entry("cms", word)))
    assert line.level == "failure"
    assert "entry cms can be guessed" in line.found
    assert hashlib.sha256(word.encode()).hexdigest() not in str(line)


def test_made_keys_are_fine_and_counted() -> None:
    (line,) = doctor.keys(settings(api_keys=f"{entry('a', 'x' * 40)},{entry('b', 'y' * 40)}"))
    assert (line.level, line.found) == ("ok", "2 (admin)")


@pytest.mark.parametrize(("env", "level"), [("development", "warning"), ("production", "failure")])
def test_a_service_without_keys_is_judged_by_where_it_runs(env: str, level: str) -> None:
    (line,) = doctor.keys(settings(app_env=env))
    assert line.level == level
    assert "app keys new" in line.fix


def test_two_web_processes_by_hand_are_warned_of() -> None:
    lines = list(doctor.configuration(settings(), {"WEB_CONCURRENCY": "2"}))
    assert [line.level for line in lines] == ["ok", "warning"]
    by_platform = {"WEB_CONCURRENCY": "2", "WEB_CONCURRENCY_SET_BY": "heroku/python"}
    assert [line.level for line in doctor.configuration(settings(), by_platform)] == ["ok"]


def test_the_wish_for_deepface_without_the_package_is_said() -> None:
    lines = list(doctor.configuration(settings(use_lite_embeddings=False), {}))
    assert lines[-1].level == "warning"
    assert "ONNX is used" in lines[-1].found


def test_the_memory_limit_is_read_from_both_kinds_of_control_group(tmp_path: Path) -> None:
    assert doctor.memory_limit_mib(tmp_path) is None
    (tmp_path / "memory").mkdir()
    old = tmp_path / "memory" / "memory.limit_in_bytes"
    old.write_text("9223372036854771712\n")
    assert doctor.memory_limit_mib(tmp_path) is None
    old.write_text("536870912\n")
    assert doctor.memory_limit_mib(tmp_path) == 512
    (tmp_path / "memory.max").write_text("268435456\n")
    assert doctor.memory_limit_mib(tmp_path) == 256


def test_cpu_features_are_read_from_the_first_processor() -> None:
    text = "processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor\t: 1\nflags\t\t: fpu\n"
    assert {"avx2", "avx512_vnni"} <= doctor.cpu_flags(text)
    assert doctor.cpu_flags("") == frozenset()


def test_missing_model_files_are_named_with_the_command(tmp_path: Path) -> None:
    lines = list(doctor.models(settings(var_dir=tmp_path, face_model="facenet128")))
    assert {line.level for line in lines} == {"failure"}
    assert "python -m faces.models fetch facenet128" in lines[-1].fix


@pytest.mark.parametrize(
    "values",
    [{"face_recognition_enabled": False}, {"encoder": "remote", "encoder_url": "http://e"}],
)
def test_without_an_encoder_of_its_own_no_model_is_missed(values: dict[str, Any]) -> None:
    (line,) = doctor.models(settings(**values))
    assert (line.level, line.found[:10]) == ("ok", "not needed")


@pytest.mark.parametrize(
    ("status", "queryable", "level"),
    [
        ("READY", True, "ok"),
        ("BUILDING", True, "warning"),
        ("FAILED", True, "warning"),
        ("BUILDING", False, "failure"),
        ("PENDING", False, "failure"),
    ],
)
def test_an_index_is_judged_by_whether_it_serves(status: str, queryable: bool, level: str) -> None:
    found = doctor_database.index_state({"name": "i", "status": status, "queryable": queryable})
    assert found.level == level


def test_definitions_are_the_same_whatever_their_order_and_spelled_out_defaults() -> None:
    wanted = index_definition("facenet128", 128)
    fields = [dict(field) for field in reversed(wanted["fields"])]
    fields[-1] |= {"quantization": "none", "hnswOptions": {"maxEdges": 16}}
    assert doctor_database.same_definition({"fields": fields}, wanted)
    assert not doctor_database.same_definition({"fields": fields[:-1]}, wanted)
    fields[-1]["numDimensions"] = 512
    assert not doctor_database.same_definition({"fields": fields}, wanted)


def granted(*actions: str, db: str = "likeness") -> dict[str, Any]:
    return {
        "authenticatedUsers": [{"user": "u", "db": "admin"}],
        "authenticatedUserPrivileges": [
            {"resource": {"db": db, "collection": ""}, "actions": list(actions)}
        ],
    }


READ_WRITE = ("find", "insert", "update", "remove", "listSearchIndexes")


def test_a_user_with_read_and_write_on_the_database_is_enough_for_web_and_worker() -> None:
    both = settings(migrations_mongodb_uri="mongodb://x")
    lines = list(doctor_database.privileges(granted(*READ_WRITE), "likeness", both))
    assert [line.level for line in lines] == ["ok"]


def test_privileges_on_another_database_do_not_count() -> None:
    both = settings(migrations_mongodb_uri="mongodb://x")
    auth = granted(*READ_WRITE, db="other")
    (line,) = doctor_database.privileges(auth, "likeness", both)
    assert line.level == "failure"
    assert "lacks: find" in line.found


def test_migrations_by_the_same_user_need_the_index_actions() -> None:
    lines = list(doctor_database.privileges(granted(*READ_WRITE), "likeness", settings()))
    assert [line.level for line in lines] == ["ok", "failure"]
    assert "MIGRATIONS_MONGODB_URI" in lines[-1].fix


@pytest.mark.parametrize(("hours", "level"), [(35, "ok"), (37, "warning")])
def test_a_last_run_of_more_than_a_day_and_a_half_ago_is_warned_of(hours: int, level: str) -> None:
    assert doctor_database.last_run(NOW - dt.timedelta(hours=hours), NOW).level == level


def test_a_clock_that_is_off_is_warned_of() -> None:
    assert doctor_database.clock(NOW.replace(tzinfo=None), NOW.timestamp() + 1).level == "ok"
    assert doctor_database.clock(NOW, NOW.timestamp() + 60).level == "warning"


def test_a_wrong_configuration_is_one_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "many")
    (line,) = doctor.examine()
    assert line.level == "failure"
    assert "PORT" in line.found
