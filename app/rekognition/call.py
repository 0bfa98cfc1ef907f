"""One call of an operation: what it was given and what it may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.auth import Caller
from app.deps import Client
from app.rekognition import ids
from app.rekognition.similarity import Scale, scale
from app.rekognition.tokens import Tokens
from app.services import Services
from faces.models import cards
from faces.records import ActiveModel, StoredFace

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """The checked input of an operation, its caller and the services."""

    operation: str
    given: Mapping[str, Any]
    parts: Services
    caller: Caller
    client: Client
    tokens: Tokens
    region: str = "us-east-1"

    @property
    def collection(self) -> str:
        """The collection of the call. Raises NotFound when the key does not reach it."""
        return self.caller.enter(str(self.given["CollectionId"]))

    @property
    def model(self) -> ActiveModel:
        """The active model. Raises IndexNotReady before there is one."""
        return self.parts.active_model()

    def external_ids(self, faces: Mapping[str, StoredFace]) -> dict[str, str]:
        """The ExternalImageId of each media id of these faces; those without one are left out."""
        found: dict[str, str] = {}
        long: dict[str, list[str]] = {}
        for face in faces.values():
            if ids.is_nameless(face.media_id):
                continue
            media_id = ids.unmarked(face.media_id)
            external = ids.encode(media_id)
            if len(external) > ids.LONGEST:
                external = ids.alias(media_id)
                long.setdefault(face.collection, []).append(media_id)
            found[face.media_id] = external
        for collection, media_ids in long.items():
            self.parts.store.aliases.keep(collection, sorted(set(media_ids)))
        return found

    def media_id(self, external: str) -> str:
        """The media id of an ExternalImageId."""
        if ids.is_alias(external):
            digest = external.partition(":")[2]
            kept = self.parts.store.aliases.find(self.collection, digest)
            if kept is not None:
                return kept
        return ids.decode(external)


def scale_of(model: str) -> Scale:
    """The similarity curve of a model."""
    return scale(cards.card(model))
