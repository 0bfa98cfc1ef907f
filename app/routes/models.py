"""The models and the encoder in use."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from app.deps import SearchCaller, ServicesDep
from app.schemas_service import EncoderInfo, ModelInfo, Models
from app.wire import answer
from faces.choice import choose, deepface_installed
from faces.models import files
from faces.models.cards import CARDS, DETECTOR

router = APIRouter(tags=["models"])


@router.get("/v1/models", response_model=Models)
def models(parts: ServicesDep, caller: SearchCaller) -> Response:
    """Every model with its card, and which encoder this process uses and why."""
    folder = parts.settings.models_path
    active = parts.watch.active() if parts.watch is not None else None
    key = active.key if active is not None else parts.engine.model
    chosen = choose(parts.settings, installed=deepface_installed(), model=key)
    items = []
    for card in CARDS.values():
        path = files.encoder_path(folder, card.key)
        record = files.read_record(path)
        items.append(
            ModelInfo(
                key=card.key,
                name=card.name,
                dimensions=card.dimensions,
                detector=DETECTOR.key,
                active=card.key == key,
                present=path.is_file(),
                licence=card.licence,
                licence_declared_by=card.licence_declared_by,
                training_data=card.training_data,
                commercial_use=card.commercial_use,
                source="; ".join(card.sources),
                sha256=record.sha256 if record else card.sha256,
                size_bytes=path.stat().st_size if path.is_file() else card.size,
                threshold=card.threshold,
                threshold_source=card.threshold_source,
            )
        )
    return answer(
        Models(
            items=items,
            encoder=EncoderInfo(
                kind=chosen.kind,
                reason=chosen.reason,
                state=parts.engine.state,
                model=parts.engine.model,
                build=parts.engine.build,
            ),
        )
    )
