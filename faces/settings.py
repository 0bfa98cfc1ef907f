"""The whole configuration, read from the environment by a process and passed down.

`.env.example` lists every name with its default and meaning; a test compares the two.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from faces import setting_forms as forms
from faces.errors import ConfigError

Role = Literal["search", "index", "admin"]
NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_HOST = r"(?:[A-Za-z0-9._%-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?"
_MONGODB_URI = re.compile(
    rf"mongodb(?:\+srv)?://(?:[^@/?#\s]*@)?{_HOST}(?:,{_HOST})*(?:[/?]\S*)?\Z"
)


def _split(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _api_keys(value: SecretStr) -> SecretStr:
    for part in _split(value.get_secret_value()):
        pieces = part.split(":")
        if len(pieces) not in (3, 4) or pieces[1] not in ("search", "index", "admin"):
            raise ValueError("each entry must read name:role:sha256hex[:coll+coll]")
        if not re.fullmatch(r"[0-9a-f]{64}", pieces[2]):
            raise ValueError("each hash must be 64 lower-case hex digits (see `app keys new`)")
    return value


def _dialect_keys(value: SecretStr) -> SecretStr:
    seen = set()
    for part in _split(value.get_secret_value()):
        pieces = part.split(":")
        if len(pieces) not in (3, 4) or pieces[2] not in ("search", "index", "admin"):
            raise ValueError("each entry must read accessKeyId:secret:role[:coll+coll]")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", pieces[0]) or pieces[0] in seen:
            raise ValueError(
                "each accessKeyId must be 1 to 128 of A-Z a-z 0-9 _ - and be there once"
            )
        if not re.fullmatch(r"[!-~]{1,128}", pieces[1]):
            raise ValueError("each secret must have 1 to 128 visible ASCII characters")
        if len(pieces) == 4 and not all(NAME.fullmatch(name) for name in pieces[3].split("+")):
            raise ValueError("each collection must be 1 to 255 of A-Z a-z 0-9 _ . -")
        seen.add(pieces[0])
    return value


def _api_key(value: SecretStr | None) -> SecretStr | None:
    if value is not None and len(value.get_secret_value()) < 24:
        raise ValueError("must have at least 24 characters (see `app keys new`)")
    return forms.header_secret(value)


def _mongodb_uri(value: SecretStr | None) -> SecretStr | None:
    # Its form only; the driver reads the rest, but tells of a wrong one where nobody looks.
    if value is not None and not _MONGODB_URI.match(value.get_secret_value()):
        raise ValueError(
            "must read mongodb://… or mongodb+srv://…, with : / ? # [ ] @ in user and password"
            " written as %3A %2F %3F %23 %5B %5D %40"
        )
    return value


def _collection(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("must be 1 to 255 of A-Z a-z 0-9 _ . -")
    return value


def _source_name(value: str | None) -> str | None:
    name = value and value.strip()
    if name and (not name.isprintable() or len(name) > 100):
        raise ValueError("must have 1 to 100 printable characters")
    if name == "api":
        raise ValueError("`api` is the name of what is put by HTTP")
    return name or None


CmsUrl = Annotated[str | None, AfterValidator(forms.cms_url)]
DatabaseName = Annotated[str | None, AfterValidator(forms.database_name)]
MongodbUri = Annotated[SecretStr | None, AfterValidator(_mongodb_uri)]


class Settings(BaseSettings):
    """One process's configuration. Field `mongodb_uri` is the variable `MONGODB_URI`, and so on."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    # Where it runs
    app_env: Literal["development", "production"] = "development"
    dyno: str | None = None
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    ready_file: Path | None = None
    web_concurrency: int = Field(1, ge=1, le=64)
    var_dir: Path = Path("var")

    # Database
    mongodb_uri: MongodbUri = None
    mongodb_database: DatabaseName = None
    migrations_mongodb_uri: MongodbUri = None
    mongodb_max_pool: int | None = Field(None, ge=1, le=500)
    mongodb_timeout_ms: int = Field(5000, ge=100, le=60000)

    # Faces
    face_recognition_enabled: bool = True
    use_lite_embeddings: bool | None = None
    lazy_load_ml: bool = True
    encoder: Literal["onnx", "remote", "deepface"] | None = None
    encoder_url: Annotated[str | None, AfterValidator(forms.service_url)] = None
    encoder_api_key: Annotated[SecretStr | None, AfterValidator(forms.header_secret)] = None
    face_model: Annotated[str | None, AfterValidator(forms.model_key)] = None
    models: Annotated[tuple[str, ...], NoDecode, AfterValidator(forms.model_keys)] = ()
    model_dir: Path | None = None
    model_auto_fetch: bool | None = None
    onnx_providers: Annotated[tuple[str, ...], NoDecode] = ("CPUExecutionProvider",)
    face_min_quality: float = Field(0.0, ge=0.0, le=1.0)
    detect_side: int = Field(640, ge=160, le=2048)
    detect_closer_side: int = Field(1280, ge=0, le=4096)
    detect_min_confidence: float = Field(0.6, ge=0.3, le=0.99)
    keep_crops: Literal["off", "uploads", "all"] = "uploads"

    # HTTP
    api_keys: Annotated[SecretStr, AfterValidator(_api_keys)] = SecretStr("")
    api_key: Annotated[SecretStr | None, AfterValidator(_api_key)] = None
    trusted_proxies: Annotated[tuple[str, ...], NoDecode, AfterValidator(forms.networks)] = ()
    max_upload_bytes: int = Field(15_728_640, ge=1024, le=104_857_600)
    media_allowed_hosts: Annotated[
        tuple[str, ...], NoDecode, AfterValidator(forms.media_hosts)
    ] = ()
    rate_limit_per_key: Annotated[str, AfterValidator(forms.rate)] = "12000/minute"
    rate_limit_per_address: Annotated[str, AfterValidator(forms.rate)] = "12000/minute"
    cors_origins: Annotated[tuple[str, ...], NoDecode, AfterValidator(forms.page_origins)] = ()
    docs_access: Literal["key", "open", "off"] = "key"
    metrics_access: Literal["key", "open", "off"] = "key"
    otel_exporter_otlp_endpoint: str | None = Field(None, pattern=r"^https?://[^\s@]+$")
    otel_exporter_otlp_protocol: Literal["http/protobuf"] = "http/protobuf"
    otel_service_name: str = "likeness"
    aws_dialect_keys: Annotated[SecretStr, AfterValidator(_dialect_keys)] = SecretStr("")

    # The CMS
    cms_source: Literal["folder", "mongo", "http"] | None = None
    cms_source_name: Annotated[str | None, AfterValidator(_source_name)] = None
    cms_collection: Annotated[str, AfterValidator(_collection)] = "default"
    cms_folder: Path | None = None
    cms_http_url: CmsUrl = None
    cms_base_url: CmsUrl = None
    cms_query: str | None = None
    cms_visible_statuses: Annotated[tuple[str, ...], NoDecode] = ()
    cms_mongodb_uri: MongodbUri = None
    cms_mongodb_database: DatabaseName = None
    cms_mongodb_collection: Annotated[str | None, AfterValidator(forms.collection_name)] = None
    cms_field_id: str = "_id"
    cms_field_url: str = "url"
    cms_field_updated: str = "updated_at"
    cms_field_deleted: str = "deleted_at"
    cms_field_status: str = "status"
    cms_field_mime: str = "mime_type"
    cms_field_title: str = "title"
    cms_field_taken_at: str = "taken_at"
    cms_field_metadata: str = "metadata"
    cms_hook_secret: Annotated[SecretStr | None, AfterValidator(forms.secret)] = None

    # The indexer
    index_schedule: str = "0 2 * * *"
    index_live: bool = False
    index_max_delete_ratio: float = Field(0.2, ge=0.0, le=1.0)
    indexer_embedded: bool = False
    samples: bool = False

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, values: dict[str, object]) -> dict[str, object]:
        for name in (
            "models",
            "onnx_providers",
            "trusted_proxies",
            "media_allowed_hosts",
            "cors_origins",
        ):
            if isinstance(value := values.get(name), str):
                values[name] = _split(value)
        if isinstance(value := values.get("cms_visible_statuses"), str):
            values["cms_visible_statuses"] = _split(value)
        if values.get("dyno"):
            values["app_env"] = "production"
            # The platform's router reaches the process from outside its own loopback.
            values.setdefault("host", "0.0.0.0")  # noqa: S104
        return values

    @model_validator(mode="after")
    def _together(self) -> Settings:
        missing = []
        if self.cms_source == "folder" and self.cms_folder is None:
            missing.append("CMS_FOLDER (CMS_SOURCE is folder)")
        if self.cms_source == "http" and self.cms_http_url is None:
            missing.append("CMS_HTTP_URL (CMS_SOURCE is http)")
        if self.cms_source == "mongo" and self.cms_mongodb_collection is None:
            missing.append("CMS_MONGODB_COLLECTION (CMS_SOURCE is mongo)")
        if self.encoder == "remote" and self.encoder_url is None:
            missing.append("ENCODER_URL (ENCODER is remote)")
        if missing:
            raise ValueError("missing: " + ", ".join(missing))
        if self.production and self.face_model == "auto":
            raise ValueError("FACE_MODEL=auto is for development; name a model in production")
        secrets = [part.split(":")[1] for part in _split(self.aws_dialect_keys.get_secret_value())]
        if self.production and any(len(secret) < 16 for secret in secrets):
            raise ValueError("AWS_DIALECT_KEYS: in production a secret needs 16 characters")
        return self

    @property
    def production(self) -> bool:
        """Whether the stricter rules of production hold."""
        return self.app_env == "production"

    @property
    def key_entries(self) -> str:
        """All keys that are admitted, in the form of API_KEYS; API_KEY has every role."""
        entries = [self.api_keys.get_secret_value()]
        if self.api_key is not None:
            digest = hashlib.sha256(self.api_key.get_secret_value().encode()).hexdigest()
            entries.append(f"api-key:admin:{digest}")
        return ",".join(entry for entry in entries if entry)

    @property
    def models_path(self) -> Path:
        """The folder that holds the model files."""
        return self.model_dir or self.var_dir / "models"


def load() -> Settings:
    """The settings of this process.

    Raises ConfigError, naming every missing or malformed variable at once and no value.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = []
        for item in error.errors(include_input=False, include_url=False):
            name = ".".join(str(part) for part in item["loc"]).upper()
            message = item["msg"].removeprefix("Value error, ")
            problems.append(f"{name}: {message}" if name else message)
        raise ConfigError("The configuration cannot be used. " + "; ".join(problems)) from None
