"""Which model a new database gets: the environment decides once, then the database does."""

from __future__ import annotations

from faces.errors import ConfigError, ModelFileError
from faces.models import cards, files
from faces.records import ActiveModel
from faces.search import index_name
from faces.settings import Settings

PRODUCTION_DEFAULT = "facenet512"


def key_of(settings: Settings) -> str:
    """The key that FACE_MODEL means. Raises ConfigError when `auto` is not decided yet."""
    key = settings.face_model or ("auto" if not settings.production else PRODUCTION_DEFAULT)
    if key == "auto":
        recorded = files.recorded_choice(settings.models_path)
        if recorded is None:
            raise ConfigError(
                "No model is chosen yet: run `python -m faces.models fetch`, or set FACE_MODEL."
            )
        key = recorded
    return cards.card(key).key


def build_of(settings: Settings, key: str) -> str:
    """The build of the encoder that is here, or an empty string before its file is."""
    try:
        if settings.encoder == "remote":
            from faces.loading import encoder_build

            return encoder_build(settings, key)
        return files.build_sha256(settings.models_path, key)
    except ModelFileError:
        return ""


def choose(settings: Settings) -> tuple[str, str] | None:
    """Model key and encoder build for a database without an active model.

    None where face recognition is off and nobody named a model: it is chosen when it is needed.
    """
    if not settings.face_recognition_enabled and preview(settings) is None:
        return None
    key = key_of(settings)
    return key, build_of(settings, key)


def preview(settings: Settings) -> ActiveModel | None:
    """The model that `up` would choose, for a plan; None while that is undecided."""
    try:
        key = key_of(settings)
    except ConfigError:
        return None
    return ActiveModel(key, "", index_name(key))


def differing(settings: Settings, active: ActiveModel) -> str | None:
    """A warning when FACE_MODEL names another model than the database's active one."""
    asked = settings.face_model
    if asked in (None, "auto", active.key):
        return None
    return (
        f"FACE_MODEL is {asked}, the database's active model is {active.key}, which wins: "
        f"`python -m migrations model {asked}` switches."
    )
