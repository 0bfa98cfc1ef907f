"""One entry brought up to date: its bytes read, looked at and stored, or its failure recorded."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar

from faces.errors import (
    Busy,
    Conflict,
    DatabaseUnavailable,
    EncoderUnavailable,
    LeaseLost,
    LikenessError,
    Loading,
    NotFound,
    StorageFull,
    Tombstoned,
)
from faces.item_before import Before
from faces.item_put import Put, Rules
from faces.leases import Fence
from faces.records import KnownItem
from faces.store import Store
from faces.types import PIPELINE_VERSION, Analysis, MediaInfo, MediaRef
from indexer.plan import Brake, Step
from indexer.retry import Failure, classify, reason_of
from indexer.sources.base import Body, Entry, Source, Unusable
from indexer.stamp import Stamp, info_of

Ending: TypeAlias = Literal[
    "indexed", "no_face", "updated", "unchanged", "waiting", "failed", "broken", "conflicts",
    "tombstoned", "deleted", "hidden", "stopped",
]  # fmt: skip
DATABASE_PATIENCE_S = 120.0
BUSY_TRIES = 60
ENCODER_PATIENCE_S = 300.0
STILL_MISSING_S = 24 * 3600.0
"""Between two looks at a picture that has been missing for so long that its faces went."""
COUNT_AGAIN_S = 60.0
R = TypeVar("R")


class Analyst(Protocol):
    """What looks at pictures; loaded when the first one comes."""

    @property
    def model(self) -> str:
        """The key of the model that makes the embeddings."""
        ...

    def analyse(self, data: bytes) -> tuple[Analysis, ...]:
        """All faces of the picture by the active model, and by the next one where it is asked."""
        ...

    def forget(self) -> None:
        """Look anew which models are asked for."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """One listed entry, what is stored of it, and what to do."""

    entry: Entry
    known: KnownItem | None
    step: Step
    before: Before | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """A task whose picture was looked at; it waits to be stored."""

    task: Task
    put: Put


@dataclass(frozen=True, slots=True)
class Result:
    """How one entry ended. `reason` and `detail` say why it failed; `faces` are those stored."""

    key: str
    ending: Ending
    faces: int = 0
    reason: str | None = None
    detail: str = ""
    refused: bool = False
    """The media server answered 401 or 403."""
    read: bool = False
    """The source gave the bytes, or said that they are the same."""
    again: bool = False
    """It failed in an earlier run and was not tried now: that run's job names it."""
    held: bool = False
    """Its faces would go by now, but the brake holds them."""


class Items:
    """Carries tasks out; safe to use from several threads. Writes under the fence it is given.

    Errors that are not one entry's own (the database is full or away, the lease is lost, the
    encoder cannot be used) are raised.
    """

    def __init__(
        self,
        store: Store,
        source: Source,
        analyst: Analyst,
        *,
        name: str,
        collection: str,
        fence: Fence | None,
        max_bytes: int,
        min_quality: float,
        brake: Brake,
        now: Callable[[], dt.datetime],
        stopping: threading.Event,
    ) -> None:
        self.allow_deletes = False
        """Whether what is missing goes however much it is."""
        self._brake = brake
        self._counting = threading.Lock()
        self._missing = (-COUNT_AGAIN_S, False)
        self._store = store
        self._source = source
        self._analyst = analyst
        self._name = name
        self._collection = collection
        self._fence = fence
        self._max_bytes = max_bytes
        self._rules = Rules(min_quality, PIPELINE_VERSION, fence)
        self._now = now
        self._stopping = stopping

    def carry_out(self, task: Task) -> Result:
        """The result of one task, stored."""
        done = self.prepare(task)
        return self._store_alone(done) if isinstance(done, Ready) else done

    def prepare(self, task: Task) -> Result | Ready:
        """The result of one task that leaves no faces to be stored, else what is to be stored."""
        if self._stopping.is_set():
            return Result(task.entry.key, "stopped")
        return self._guarded(task.entry.key, lambda: self._prepare(task))

    def store(self, made: Sequence[Ready]) -> list[Result]:
        """The results of prepared tasks, stored in one transaction where that is possible."""
        counts: Sequence[int | None] = [None] * len(made)
        if len(made) > 1:
            try:
                counts = self._store.put_together([ready.put for ready in made], self._rules)
            except (LeaseLost, StorageFull):
                raise
            except LikenessError:
                pass  # whatever it was, each of them meets it alone or not at all
        return [
            self._store_alone(ready) if faces is None else _stored(ready, faces)
            for ready, faces in zip(made, counts, strict=True)
        ]

    def _store_alone(self, ready: Ready) -> Result:
        return self._guarded(ready.task.entry.key, lambda: self._put(ready))

    def _guarded(self, key: str, act: Callable[[], R]) -> R | Result:
        """What `act` returns, or what became of an entry that nothing is stored of."""
        try:
            return self._patiently(act)
        except Tombstoned:
            return Result(key, "tombstoned")
        except Conflict as error:
            return Result(key, "conflicts", reason="conflict", detail=error.detail)

    def unusable(self, listed: Unusable, known: KnownItem | None) -> Result:
        """The result for a listed thing that cannot be indexed, recorded once."""
        stamp = Stamp(listed.version, "", PIPELINE_VERSION).encode()
        ending: Ending = "broken" if known is not None and known.etag == stamp else "failed"
        try:
            if ending == "failed":
                ref = MediaRef(self._collection, listed.media_id, self._name, listed.key)
                self._patiently(
                    lambda: self._store.record_failure(
                        ref, MediaInfo(etag=stamp), listed.reason, True, self._fence
                    )
                )
        except Tombstoned:
            return Result(listed.key, "tombstoned")
        except Conflict as error:
            return Result(listed.key, "conflicts", reason="conflict", detail=error.detail)
        again = ending == "broken"
        return Result(listed.key, ending, reason=listed.reason, detail=listed.detail, again=again)

    def delete(self, key: str, media_id: str) -> Result:
        """Remove an item that its source no longer has: deleted, unchanged or conflicts."""

        def act() -> Result:
            faces = self._delete_quietly(media_id)
            return Result(key, "unchanged") if faces is None else Result(key, "deleted", faces)

        return self._guarded(key, act)

    def _prepare(self, task: Task) -> Result | Ready:
        entry, step = task.entry, task.step
        ref = MediaRef(self._collection, entry.media_id, self._name, entry.key)
        try:
            if step.verb == "inform":
                return self._inform(ref, info_of(entry, step.stamp))
            body = self._read(entry, step)
            if self._stopping.is_set():
                return Result(entry.key, "stopped")
            return self._look(task, ref, body)
        except LikenessError as error:
            return self._failed(task, ref, error)

    def _inform(self, ref: MediaRef, info: MediaInfo, *, read: bool = False) -> Result:
        try:
            self._store.update_info(ref, info, self._fence)
        except NotFound:
            # Deleted through the API since the page was read; without its collection the run ends.
            self._store.collection(self._collection)
            return Result(ref.source_key, "tombstoned", read=read)
        return Result(ref.source_key, "updated", read=read)

    def _read(self, entry: Entry, step: Step) -> Body:
        conditions = step.conditions
        return self._source.read(
            entry,
            max_bytes=self._max_bytes,
            etag=conditions.etag if conditions else None,
            modified=conditions.modified if conditions else None,
        )

    def _look(self, task: Task, ref: MediaRef, body: Body) -> Result | Ready:
        entry, stamp = task.entry, task.step.stamp.fetched(body)
        if body.data is None:
            conditions = task.step.conditions
            if conditions is not None and body.etag is None and body.modified is None:
                stamp = Stamp(
                    stamp.version, stamp.info, stamp.pipeline, conditions.etag, conditions.modified
                )
            return self._inform(ref, info_of(entry, stamp), read=True)
        info = info_of(entry, stamp)
        content = hashlib.sha256(body.data).hexdigest()
        if task.known is not None and task.known.sha256 == content:
            same = self._store.unchanged(ref, content, PIPELINE_VERSION, self._analyst.model)
            if same is not None:
                return self._inform(ref, info, read=True)
        began = task.known.rev if task.known is not None else None
        analyses = self._analyses(body.data)
        return Ready(task, Put(ref, info, analyses, content, began, task.before))

    def _analyses(self, data: bytes) -> tuple[Analysis, ...]:
        """The picture looked at, again where the decoder is busy.

        A separate encoder that is away is no fault of the photo: it is waited for.
        """
        tries = 0
        end = time.monotonic() + ENCODER_PATIENCE_S
        while True:
            try:
                return tuple(self._analyst.analyse(data))
            except Busy as error:
                tries += 1
                self._analyst.forget()
                if tries == BUSY_TRIES or self._stopping.wait(min(error.retry_after, 2.0)):
                    raise
            except (EncoderUnavailable, Loading) as error:
                late = time.monotonic() > end
                if late or self._stopping.wait(min(error.retry_after, 2.0)):
                    raise

    def _put(self, ready: Ready) -> Result:
        """The item stored by itself; looked at anew where a model switched meanwhile."""
        tries = 0
        while True:
            task, put = ready.task, ready.put
            analysis, *also = put.analyses
            try:
                stored = self._store.put_item(
                    put.ref,
                    put.info,
                    analysis,
                    content=put.content,
                    min_quality=self._rules.min_quality,
                    pipeline_version=self._rules.pipeline_version,
                    fence=self._fence,
                    began_rev=put.began_rev,
                    also=also,
                    before=put.before,
                )
            except Busy as error:
                tries += 1
                self._analyst.forget()
                if tries == BUSY_TRIES or self._stopping.wait(min(error.retry_after, 2.0)):
                    raise
            except LikenessError as error:
                return self._failed(task, put.ref, error)
            else:
                return _stored(ready, len(stored.faces))
            again = self._prepare(task)
            if isinstance(again, Result):
                return again
            ready = again

    def _failed(self, task: Task, ref: MediaRef, error: LikenessError) -> Result:
        entry, known = task.entry, task.known
        stamp = task.step.stamp
        again = known is not None and known.etag == stamp.encode()
        # Only failures of the same kind add up: an hour of 503 is no word about a later 404.
        before = known.attempts if again and known and known.error == reason_of(error) else 0
        failure = classify(error, before + 1)
        if failure is None:
            raise error
        if failure.reason == "url_not_allowed":
            # Refused by our own settings, at no cost: every run looks whether they changed.
            stamp = dataclasses.replace(stamp, pipeline="")
        held = False
        if failure.reason == "not_found" and failure.permanent:
            # Looked for three times within more than a day: its faces go, the note stays. It may
            # come back under the same record, so the looking goes on.
            failure = dataclasses.replace(failure, permanent=False, delay_s=STILL_MISSING_S)
            if known is not None and known.sha256 is not None:
                held = not self.allow_deletes and self._too_many_missing()
                if not held:
                    faces = self._delete_quietly(known.media_id) or 0
                    self._record(ref, entry, stamp, failure)
                    return Result(entry.key, "deleted", faces, failure.reason, failure.detail)
        self._record(ref, entry, stamp, failure)
        return Result(
            entry.key,
            "failed",
            reason=failure.reason,
            detail=failure.detail,
            refused=failure.reason == "forbidden",
            held=held,
        )

    def _too_many_missing(self) -> bool:
        """Whether so many pictures are missing that their server, not they, may be at fault."""
        with self._counting:
            asked, answer = self._missing
            if time.monotonic() - asked > COUNT_AGAIN_S:
                going, known = self._store.missing(self._name, self._collection)
                answer = self._brake.holds(going, known)
                self._missing = (time.monotonic(), answer)
            return answer

    def _delete_quietly(self, media_id: str) -> int | None:
        """How many faces went; None when the item had been deleted through the API meanwhile."""
        try:
            return self._store.delete_item(
                self._collection, media_id, source=self._name, tombstone=False, fence=self._fence
            )
        except NotFound:
            self._store.collection(self._collection)  # without it the run ends
            return None

    def _record(self, ref: MediaRef, entry: Entry, stamp: Stamp, failure: Failure) -> None:
        next_at = None
        if failure.delay_s is not None:
            next_at = self._now() + dt.timedelta(seconds=failure.delay_s)
        self._store.record_failure(
            ref,
            info_of(entry, stamp),
            failure.reason,
            failure.permanent,
            self._fence,
            next_at=next_at,
        )

    def _patiently(self, act: Callable[[], R]) -> R:
        """What `act` returns, tried again while the database is away: nothing is marked done."""
        end = time.monotonic() + DATABASE_PATIENCE_S
        pause = 0.25
        while True:
            try:
                return act()
            except StorageFull:
                raise
            except DatabaseUnavailable:
                if time.monotonic() + pause > end or self._stopping.wait(pause):
                    raise
                pause = min(pause * 2, 10.0)


def _stored(ready: Ready, faces: int) -> Result:
    ending: Ending = "indexed" if faces else "no_face"
    return Result(ready.task.entry.key, ending, faces, read=True)
