"""Every case of the vector search contract: what a client sends and what it must get back.

A case sets up collections and indexes, then runs one pipeline, one command or several steps, each
with what to expect: ids and scores of the rows, the rows, a part of the reply, or an error.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from bson import json_util
from pymongo.errors import OperationFailure

Document = dict[str, Any]
TOLERANCE = 1e-5
TIE = 1e-6
TYPES = {"string": str, "date": datetime.datetime}
OPTIONS = json_util.JSONOptions(tz_aware=True)


def test_case(contract: Any, case: Document) -> None:
    decoded = json_util.loads(json.dumps(case), json_options=OPTIONS)
    place = contract.place(case)
    wording = contract.wording(case)
    for step in _steps(decoded):
        _take(contract, place, step, wording=wording)


def _steps(case: Document) -> list[Document]:
    if "steps" in case:
        return list(case["steps"])
    action = "command" if "command" in case else "pipeline"
    keys = {"command": "run", "pipeline": "query"}
    step = {keys[action]: case[action], "expect": case["expect"]}
    step.update({key: case[key] for key in ("collection", "session") if key in case})
    then = case.get("then", {})
    return [step, {"listNames": then["listNames"]}] if "listNames" in then else [step]


def _take(contract: Any, place: Any, step: Document, *, wording: bool) -> None:
    expect = place.bound(step.get("expect", {}))
    if "run" in step:
        _hold(_attempt(lambda: place.run(step["run"])), expect, wording=wording)
    elif "query" in step:
        _query(contract, place, step, expect, wording=wording)
    elif "aggregate" in step:
        _hold(_attempt(lambda: place.rows(step["aggregate"])), expect, wording=wording)
    elif "eventually" in step:
        contract.eventually(
            lambda: _difference(
                _attempt(lambda: place.rows(step["eventually"])), expect, wording=wording
            )
        )
    elif "wait" in step:
        place.wait(place.bound(step["wait"]))
    elif "waitGone" in step:
        gone = step["waitGone"]
        contract.eventually(
            lambda: "still listed" if any(e["name"] == gone for e in place.listed()) else ""
        )
    elif "listNames" in step:
        wanted = sorted(step["listNames"])
        contract.eventually(
            lambda: (
                f"listed are {names}, not {wanted}"
                if (names := sorted(entry["name"] for entry in place.listed())) != wanted
                else ""
            )
        )
    elif "remember" in step or "same" in step:
        _recall(place, step)
    else:
        _write(place, step)


def _query(contract: Any, place: Any, step: Document, expect: Document, *, wording: bool) -> None:
    on = step.get("collection", "$COLL")
    if step.get("session") == "transaction":
        with contract.client.start_session() as session, session.start_transaction():
            outcome = _attempt(lambda: place.rows(step["query"], on, session))
            session.abort_transaction()
        _hold(outcome, expect, wording=wording)
    elif contract.real and "error" not in expect:
        contract.eventually(
            lambda: _difference(
                _attempt(lambda: place.rows(step["query"], on)), expect, wording=wording
            )
        )
    else:
        _hold(_attempt(lambda: place.rows(step["query"], on)), expect, wording=wording)


def _recall(place: Any, step: Document) -> None:
    key = step.get("remember", step.get("same"))
    value = next(entry for entry in place.listed() if entry["name"] == "vs")[key]
    if "remember" in step:
        place.remembered[key] = value
    else:
        assert value == place.remembered[key], f"{key} has changed"


def _write(place: Any, step: Document) -> None:
    collection = place.contract.database[place.names["$COLL"]]
    if "insert" in step:
        collection.insert_many(step["insert"])
    elif "update" in step:
        collection.update_one(*step["update"], upsert=step.get("upsert", False))
    elif "replace" in step:
        collection.replace_one(*step["replace"])
    elif "delete" in step:
        collection.delete_many(step["delete"])
    else:
        pytest.fail(f"a step that is not known: {sorted(step)}")


def _attempt(action: Any) -> Any:
    try:
        return action()
    except OperationFailure as error:
        return error


def _hold(outcome: Any, expect: Document, *, wording: bool) -> None:
    if isinstance(outcome, OperationFailure) and "error" not in expect:
        raise outcome
    assert not (difference := _difference(outcome, expect, wording=wording)), difference


def _difference(outcome: Any, expect: Document, *, wording: bool) -> str:
    """Return how `outcome` (rows, reply or error) departs from `expect`; "" if it does not."""
    if "error" in expect:
        return _error_difference(outcome, expect["error"], wording=wording)
    if isinstance(outcome, OperationFailure):
        return f"error {outcome.code}: {outcome}"
    if "match" in expect:
        return "" if _contains(outcome, expect["match"]) else f"{outcome} lacks {expect['match']}"
    if "rowCount" in expect and len(outcome) != expect["rowCount"]:
        return f"{len(outcome)} rows, not {expect['rowCount']}"
    if "rows" in expect and outcome != expect["rows"]:
        return f"rows {outcome}, not {expect['rows']}"
    if "rowsMatch" in expect:
        wanted = expect["rowsMatch"]
        found = sorted(outcome, key=lambda row: str(row.get("name")))
        wanted = sorted(wanted, key=lambda row: str(row.get("name")))
        if len(found) != len(wanted) or not all(map(_contains, found, wanted)):
            return f"rows {outcome} do not match {wanted}"
    return _ids_difference(outcome, expect) if "ids" in expect else ""


def _error_difference(outcome: Any, wanted: Document, *, wording: bool) -> str:
    if not isinstance(outcome, OperationFailure):
        return f"no error, but {outcome}"
    details = outcome.details or {}
    message = str(details.get("errmsg", "")).lower()
    fragments = wanted.get("containsAny", [wanted.get("contains", "")])
    if wording and not any(fragment.lower() in message for fragment in fragments):
        return f"error {message!r} has none of {fragments}"
    for key in ("code", "codeName"):
        if key in wanted and details.get(key) != wanted[key]:
            return f"{key} {details.get(key)}, not {wanted[key]}: {message}"
    return ""


def _ids_difference(rows: list[Document], expect: Document) -> str:
    ids = [row["_id"] for row in rows]
    wanted = expect["ids"]
    scores = expect.get("scores")
    tied = scores or expect.get("tieScores")
    if expect.get("ties") == "any" and tied and len(ids) == len(wanted):
        order = sorted(range(len(ids)), key=lambda i: _tied_key(ids[i], wanted, tied, i))
        ids = [ids[i] for i in order]
    if ids != wanted:
        return f"ids {[row['_id'] for row in rows]}, not {wanted}"
    if scores is not None:
        found = [row.get("score") for row in rows]
        if len(found) != len(scores) or not all(map(_close, found, scores)):
            return f"scores {found}, not {scores}"
    for row in rows if "scoresAt" in expect else ():
        score = expect["scoresAt"].get(str(row["_id"]))
        if (score is None) != ("score" not in row) or (
            score is not None and not _close(row["score"], score)
        ):
            return f"score of {row}, not {score}"
    return ""


def _tied_key(identity: Any, wanted: list[Any], scores: list[float], position: int) -> Any:
    """Order a row like the expected one, where it stands among rows of an equal score."""
    if identity not in wanted:
        return position, 0
    place = wanted.index(identity)
    tied = abs(scores[place] - scores[position]) < TIE
    return (
        (min(p for p, s in enumerate(scores) if abs(s - scores[position]) < TIE), place)
        if (tied)
        else (position, 0)
    )


def _close(found: Any, wanted: float) -> bool:
    return isinstance(found, float) and abs(found - wanted) <= TOLERANCE * max(1, abs(wanted))


def _contains(found: Any, wanted: Any) -> bool:
    """Whether `found` holds all of `wanted`, arrays element by element."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            key in found and _contains(found[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(map(_contains, found, wanted))
        )
    if isinstance(wanted, str) and wanted.startswith("$TYPE:"):
        return isinstance(found, TYPES[wanted.removeprefix("$TYPE:")])
    return bool(found == wanted)
