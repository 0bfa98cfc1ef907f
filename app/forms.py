"""What requests may hold, as pydantic models. JSON is checked strictly, form text is converted."""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    Strict,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
)

from app.wire import UUID_PATTERN
from faces import documents

NAME = r"^[A-Za-z0-9_.-]{1,255}$"
SUBJECT_ID = r"^[A-Za-z0-9_.:-]{1,128}$"
FIELD_NAME = r"^[A-Za-z0-9_-]{1,64}$"
MAX_METADATA = 64
MAX_DECLARED = 32


def _moment(value: object) -> object:
    """An ISO 8601 date or time as an aware datetime; without an offset it is UTC."""
    if not isinstance(value, str):
        raise ValueError("must be an ISO 8601 date or time, such as 2024-05-01T12:00:00Z")
    try:
        moment = dt.datetime.fromisoformat(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
        return moment.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be an ISO 8601 date or time, such as 2024-05-01T12:00:00Z") from None


def media_id(value: str) -> str:
    """The id, when it is 1 to 255 printable characters in normal form C. Raises ValueError."""
    if not 1 <= len(value) <= 255:
        raise ValueError("must be 1 to 255 characters long")
    if not value.isprintable():
        raise ValueError("must consist of printable characters")
    if not unicodedata.is_normalized("NFC", value):
        raise ValueError("must be in Unicode normal form C (NFC)")
    return value


def _line(value: str) -> str:
    if any(unicodedata.category(letter) == "Cc" for letter in value):
        raise ValueError("must hold no control characters")
    return value


def _metadata(value: dict[str, Any]) -> dict[str, str | int | float | bool]:
    if len(value) > MAX_METADATA:
        raise ValueError(f"must hold at most {MAX_METADATA} fields")
    for name, entry in value.items():
        if not (1 <= len(name) <= 64) or not all(c.isalnum() or c in "_-" for c in name):
            raise ValueError("each name must be 1 to 64 letters, digits, _ or -")
        if not name.isascii():
            raise ValueError("each name must be 1 to 64 letters, digits, _ or -")
        if isinstance(entry, str):
            if len(entry) > 1024 or "\0" in entry:
                raise ValueError("each text must be at most 1024 characters, without NUL")
        elif isinstance(entry, bool):
            continue
        elif isinstance(entry, int):
            if not -(2**53) <= entry <= 2**53:
                raise ValueError("each whole number must be within ±2^53")
        elif not isinstance(entry, float):
            raise ValueError("each value must be text, a number or a boolean")
    if documents.metadata_size(value) > documents.MAX_METADATA_BYTES:
        raise ValueError(
            f"names and texts must have at most {documents.MAX_METADATA_BYTES} bytes in UTF-8"
        )
    return value


_METADATA_SCHEMA = {
    "type": "object",
    "maxProperties": MAX_METADATA,
    "propertyNames": {"pattern": FIELD_NAME},
    "additionalProperties": {
        "anyOf": [
            {"type": "string", "maxLength": 1024},
            {"type": "number"},
            {"type": "boolean"},
        ]
    },
}

Moment = Annotated[
    dt.datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
CollectionName = Annotated[str, StringConstraints(pattern=NAME)]
SubjectId = Annotated[str, StringConstraints(pattern=SUBJECT_ID)]
Uuid = Annotated[str, StringConstraints(pattern=UUID_PATTERN)]
Url = Annotated[str, StringConstraints(min_length=1, max_length=8192)]
Title = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_line)]
PersonName = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_line)]
Metadata = Annotated[dict[str, Any], AfterValidator(_metadata), WithJsonSchema(_METADATA_SCHEMA)]

_WHOLE = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,9})?", re.ASCII)
_FORM = "form"


def as_text(form: bool) -> dict[str, bool]:
    """The validation context that says whether values are a form's text or JSON's own types."""
    return {_FORM: form}


def _in_form(info: ValidationInfo) -> bool:
    return bool((info.context or {}).get(_FORM))


def _form_number(value: object, info: ValidationInfo) -> object:
    """Form text for a number, spelt as in JSON; whatever else it is, is the type's to refuse."""
    if isinstance(value, str) and _in_form(info) and _NUMBER.fullmatch(value):
        return float(value)
    return value


def _form_whole(value: object, info: ValidationInfo) -> object:
    """Form text for a whole number."""
    if isinstance(value, str) and _in_form(info) and _WHOLE.fullmatch(value):
        return int(value)
    return value


def _form_bool(value: object, info: ValidationInfo) -> object:
    """Form text for a boolean: only the words that JSON has."""
    if isinstance(value, str) and _in_form(info):
        return {"true": True, "false": False}.get(value, value)
    return value


Finite = Annotated[float, Strict(), Field(allow_inf_nan=False)]
"""A number of JSON, also of the JSON that a form's text part holds."""
FormFinite = Annotated[Finite, BeforeValidator(_form_number)]
Whole = Annotated[int, Strict(), BeforeValidator(_form_whole)]
Flag = Annotated[bool, Strict(), BeforeValidator(_form_bool)]
MOST_FACE_INDEX = 9999


def _which_face(value: object, info: ValidationInfo) -> str | int:
    if value in ("largest", "all"):
        return str(value)
    index = _form_whole(value, info)
    if isinstance(index, int) and not isinstance(index, bool) and 0 <= index <= MOST_FACE_INDEX:
        return index
    raise ValueError(f"must be largest, all, or an index from 0 to {MOST_FACE_INDEX}")


WhichFace = Annotated[
    str | int,
    PlainValidator(_which_face),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["largest", "all"], "type": "string"},
                {"maximum": MOST_FACE_INDEX, "minimum": 0, "type": "integer"},
            ]
        }
    ),
]


class Form(BaseModel):
    """The base of all requests: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Photo(Form):
    """A picture by address or inline, for JSON bodies."""

    image_url: Url | None = Field(None, description="Fetched only from the allow-listed hosts.")
    image_base64: str | None = Field(None, description="Standard base64 of the file's bytes.")


class SearchForm(Photo):
    """A search: exactly one of image, image_url, image_base64, face_id, subject_id, vector."""

    face_id: Uuid | None = None
    subject_id: SubjectId | None = None
    vector: Annotated[list[Finite], Field(min_length=1, max_length=4096)] | None = None
    collection: CollectionName = "default"
    limit: Annotated[Whole, Field(ge=1, le=100)] = 10
    min_similarity: FormFinite | None = Field(
        None, ge=-1, le=1, description="Default: the threshold of the model's card."
    )
    face: WhichFace = Field(
        "largest", description="Which face of the photo: `largest`, `all`, or its index."
    )
    group_by: Literal["face", "media", "subject"] = "face"
    filter: dict[str, Any] | None = Field(
        None, description="A typed filter; see the documentation of filters."
    )
    assigned: Literal["any", "none"] = "any"
    exclusive: Flag = True
    include_own: Flag = False
    exact: Flag = False


class CompareForm(Form):
    """A source with one face and a target with any number."""

    source: Photo | None = None
    target: Photo | None = None
    min_similarity: FormFinite | None = Field(None, ge=-1, le=1)


class DetectForm(Photo):
    """A picture in which to find faces."""


class KnownBox(Form):
    """A rectangle in pixels of the upright picture."""

    x: Finite
    y: Finite
    width: Annotated[Finite, Field(gt=0)]
    height: Annotated[Finite, Field(gt=0)]


class KnownFace(Form):
    """A face that the caller has found already."""

    box: KnownBox
    landmarks: Annotated[
        list[Annotated[list[Finite], Field(min_length=2, max_length=2)]],
        Field(min_length=5, max_length=5),
    ]
    confidence: Finite = Field(1.0, ge=0, le=1)


class EmbedForm(Photo):
    """A picture whose faces to embed; with `faces` nothing is detected."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    faces: Annotated[list[KnownFace], Field(min_length=1, max_length=1000)] | None = None


class EmbedManyForm(Form):
    """Several pictures whose faces to embed."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None


class MediaForm(Photo):
    """A picture to index, and what is known of it."""

    title: Title | None = None
    taken_at: Moment | None = None
    metadata: Metadata = Field(default_factory=dict)


def _declared(value: dict[str, Any]) -> dict[str, Any]:
    """The declaration, when names and types are fit; the names are input and are not repeated."""
    if len(value) > MAX_DECLARED:
        raise ValueError(f"must hold at most {MAX_DECLARED} fields")
    if not all(re.fullmatch(FIELD_NAME, name) for name in value):
        raise ValueError("each name must be 1 to 64 letters, digits, _ or -")
    if not all(kind in ("string", "number", "bool") for kind in value.values()):
        raise ValueError("each type must be string, number or bool")
    return value


MetadataFields = Annotated[
    dict[str, Any],
    AfterValidator(_declared),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_DECLARED,
            "propertyNames": {"pattern": FIELD_NAME},
            "additionalProperties": {"enum": ["string", "number", "bool"], "type": "string"},
        }
    ),
]


class CollectionForm(Form):
    """A collection to create."""

    collection: CollectionName
    metadata_fields: MetadataFields = Field(default_factory=dict)


class FieldsForm(Form):
    """The declared metadata fields, all of them."""

    metadata_fields: MetadataFields


class SubjectForm(Form):
    """A person to create."""

    subject_id: SubjectId
    name: PersonName | None = None
    metadata: Metadata = Field(default_factory=dict)


class SubjectChange(Form):
    """What to change of a person; what is absent stays."""

    name: PersonName | None = None
    metadata: Metadata | None = None


class FaceIds(Form):
    """Faces, by id."""

    face_ids: Annotated[list[Uuid], Field(min_length=1, max_length=1000)]


class JobForm(Form):
    """Work to start."""

    kind: Literal["backfill", "reembed", "audit"]
    collection: CollectionName | None = None
    dry_run: Flag = False


class HookForm(Form):
    """What happened to a picture of the CMS. `source_key` is its id there."""

    event: Literal["changed", "deleted"]
    source_key: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
