"""The active model: one document, which wins over every process's environment.

A switch prepares the next model beside it and then flips; everybody sees one or the other.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from pymongo.errors import DuplicateKeyError

from faces import documents
from faces.database import FACES, MODELS, Db, Document, translate
from faces.database import Session as DbSession
from faces.errors import Busy, Conflict, NotFound
from faces.records import ActiveModel, Quantization
from faces.search import index_name

ACTIVE = "active"
CHANGES = 20
"""How often a change is tried again when another process was faster."""
RESERVED = "~canary"
"""The collection of the index's canaries: not a client's, and never re-embedded."""
Stage: TypeAlias = Literal["idle", "load", "both", "enforced"]
"""`load`: processes load the next model. `both`: they give each new picture both vectors.
`enforced`: a picture without both is not stored."""
_STAGES: tuple[Stage, ...] = ("idle", "load", "both", "enforced")
_MODEL = ("model", "build", "index", "quantization")


class ModelStore:
    """Reads, chooses and switches the active model."""

    def __init__(self, db: Db) -> None:
        self._db = db

    def active(self) -> ActiveModel | None:
        """The active model, or None on a database that has none yet."""
        with translate():
            document = self._db[MODELS].find_one({"_id": ACTIVE})
        return documents.model_record(document) if document else None

    def choose(self, key: str, build: str) -> ActiveModel:
        """The active model; `key` becomes it only on a database without model and faces.

        Raises Conflict when there are faces but no active model: nobody can tell whose they are.
        """

        if (active := self.active()) is not None:
            return active
        document = {"_id": ACTIVE, **_fields(key, build), "since": _now(), "rev": 1}
        with translate():
            if self._db[FACES].find_one({}, {"_id": 1}):
                raise Conflict("The database holds faces but no active model.")
            try:
                self._db[MODELS].insert_one(document)
            except DuplicateKeyError:  # another process chose at the same moment
                document = self._present()
        return documents.model_record(document)

    def wanted(self, session: DbSession) -> set[str]:
        """The keys of the active model and of the one that a switch prepares."""
        document = self._db[MODELS].find_one({"_id": ACTIVE}, session=session) or {}
        found = (document, document.get("next") or {})
        return {model["model"] for model in found if "model" in model}

    def missing(self, key: str) -> int:
        """How many faces have no vector of the model."""
        with translate():
            return self._db[FACES].count_documents(missing_query(key))

    def begin_switch(
        self,
        key: str,
        build: str,
        index: str,
        quantization: Quantization = "none",
        *,
        back: bool = False,
    ) -> ActiveModel:
        """The active model with `next` set; repeating it changes nothing. `back`: a rollback.

        Raises Conflict while another switch is being prepared.
        """

        def work(document: Document) -> Document:
            wanted = {**_fields(key, build, index, quantization), "rolled_back": back}
            upcoming = document.get("next")
            if upcoming is not None and (upcoming["model"], upcoming["index"]) == (key, index):
                noted = {**upcoming, "rolled_back": back, "build": upcoming["build"] or build}
                if noted == upcoming:
                    return {}
                return {"next": noted}
            if upcoming is not None:
                raise Conflict(
                    f"A switch to {upcoming['model']} is being prepared: finish it with "
                    f"`python -m migrations model {upcoming['model']}`, or drop it with "
                    "`python -m migrations model prune`."
                )
            if document["index"] == index:
                raise Conflict("This is the active model already.")
            return {"next": wanted, **_stage("idle")}

        return documents.model_record(self._change(work))

    def set_stage(self, key: str, stage: Stage) -> None:
        """How far the preparation of the switch to `key` is; see `Stage`."""

        def work(document: Document) -> Document:
            upcoming = document.get("next")
            if upcoming is None or upcoming["model"] != key:
                raise Conflict("The switch was changed by another process: begin again.")
            return dict(_stage(stage))

        self._change(work)

    def flip(self, key: str, left_behind: int) -> ActiveModel:
        """Makes the next model active: one document, seen by all within two seconds.

        Repeating it changes nothing. Raises Conflict when the switch was not prepared.
        """

        def work(document: Document) -> Document:
            upcoming = document.get("next")
            if upcoming is None and document["model"] == key:
                return {}
            if upcoming is None or upcoming["model"] != key:
                raise Conflict(f"No switch to {key} is being prepared.")
            if not document.get("enforced") and key != document["model"]:
                raise Conflict("The switch is not prepared: the processes were not asked yet.")
            changes: Document = {
                "rolled_back": False,
                **upcoming,
                "previous": {name: document[name] for name in _MODEL},
                "next": None,
                **_stage("idle"),
                "left_behind": left_behind,
                "since": _now(),
            }
            return changes

        return documents.model_record(self._change(work))

    def forget(self, index: str) -> None:
        """Takes the model with this index out of `next` and `previous`, before it is dropped."""

        def work(document: Document) -> Document:
            gone: Document = {}
            for name in ("next", "previous"):
                if (entry := document.get(name)) is not None and entry["index"] == index:
                    gone[name] = None
            if "next" in gone:
                gone |= _stage("idle")
            return gone

        self._change(work)

    def settle(self, key: str, missing: int) -> None:
        """Stores how many faces the active model has left behind, after some were mended."""
        with translate():
            self._db[MODELS].update_one(
                {"_id": ACTIVE, "model": key}, {"$set": {"left_behind": missing}}
            )

    def note_build(self, key: str, build: str) -> None:
        """Stores the active model's build, which was not known when it was chosen."""

        def work(document: Document) -> Document:
            unknown = document["model"] == key and not document["build"]
            return {"build": build} if unknown else {}

        self._change(work)

    def _present(self) -> Document:
        with translate():
            document = self._db[MODELS].find_one({"_id": ACTIVE})
        if document is None:
            raise NotFound("The database has no active model: run `python -m migrations up`.")
        return document

    def _change(self, work: Callable[[Document], Document]) -> Document:
        """The document after the changes that `work` makes of it; none leaves it as it is.

        Compared and set by `rev`, without a transaction: one that is killed before its commit would
        keep everybody else from the document for a minute.
        """
        for _ in range(CHANGES):
            document = self._present()
            changes = work(document)
            if not changes:
                return document
            changes = {**changes, "rev": document["rev"] + 1}
            with translate():
                done = self._db[MODELS].update_one(
                    {"_id": ACTIVE, "rev": document["rev"]}, {"$set": changes}
                )
            if done.matched_count:
                return {**document, **changes}
        raise Conflict("Others keep changing the active model: run this again.")


def missing_query(key: str) -> Document:
    """The faces without a vector of the model."""
    return {"collection": {"$ne": RESERVED}, f"builds.{key}": {"$exists": False}}


def check_covered(db: Db, models: Sequence[str], session: DbSession) -> None:
    """Raises Busy unless the vectors about to be stored are of all models that count now.

    Those are the active one and, shortly before a flip, the next one: no face stored during a flip
    lacks the vector that is searched after it.
    """
    document = db[MODELS].find_one({"_id": ACTIVE}, session=session)
    if document is None:
        return
    needed = [document["model"]]
    if document.get("enforced") and document.get("next"):
        needed.append(document["next"]["model"])
    if not set(needed) <= set(models):
        raise Busy(
            "The model is being switched, and this picture was worked on with the other one: "
            "try again.",
            retry_after=1.0,
        )


def _fields(
    key: str, build: str, index: str | None = None, quantization: Quantization = "none"
) -> Document:
    return {
        "model": key,
        "build": build,
        "index": index or index_name(key),
        "quantization": quantization,
    }


def _stage(stage: Stage) -> Document:
    reached = _STAGES.index(stage)
    return {"preparing": reached >= 1, "both": reached >= 2, "enforced": reached >= 3}


def _now() -> dt.datetime:
    return documents.utc(dt.datetime.now(dt.UTC))
