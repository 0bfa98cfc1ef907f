"""The configuration: complete, documented, and named without its values."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from faces.errors import ConfigError
from faces.settings import Settings, load

ROOT = Path(__file__).resolve().parents[2]


def documented() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)


def test_the_example_file_lists_every_setting_with_its_default() -> None:
    defaults = {name.upper(): shown(field.default) for name, field in Settings.model_fields.items()}
    assert documented() == defaults


def test_every_wrong_value_is_named_at_once_and_none_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PORT", "99999")
    monkeypatch.setenv("API_KEYS", "canary-secret")
    monkeypatch.setenv("FACE_MIN_QUALITY", "7")
    with pytest.raises(ConfigError) as caught:
        load()
    for name in ("PORT", "API_KEYS", "FACE_MIN_QUALITY"):
        assert name in caught.value.detail
    assert "canary-secret" not in caught.value.detail


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"CMS_SOURCE": "folder"}, "CMS_FOLDER"),
        ({"CMS_SOURCE": "http"}, "CMS_HTTP_URL"),
        ({"CMS_SOURCE": "mongo"}, "CMS_MONGODB_COLLECTION"),
        ({"ENCODER": "remote"}, "ENCODER_URL"),
    ],
)
def test_a_setting_that_another_one_needs_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], missing: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=missing):
        load()


def test_a_dyno_is_production_and_refuses_an_automatic_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DYNO", "web.1")
    assert load().production
    monkeypatch.setenv("FACE_MODEL", "auto")
    with pytest.raises(ConfigError, match="auto"):
        load()


def test_secrets_do_not_show_when_settings_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(b"canary").hexdigest()
    monkeypatch.setenv("MONGODB_URI", "mongodb://user:canary@localhost/")
    monkeypatch.setenv("API_KEYS", f"editor:search:{digest}")
    text = repr(load())
    assert "canary" not in text
    assert digest not in text


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://127.0.0.1:1/?directConnection=true",
        "mongodb+srv://user:p%40ss@cluster0.abc.mongodb.net/likeness?retryWrites=true",
        "mongodb://a.example:1,b.example:2,[::1]:3/db?replicaSet=rs0",
        "mongodb://%2Ftmp%2Fmongodb-1.sock",
    ],
)
def test_an_address_of_a_database_is_accepted(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MONGODB_URI", uri)
    assert load().mongodb_uri is not None


@pytest.mark.parametrize("name", ["MONGODB_URI", "MIGRATIONS_MONGODB_URI", "CMS_MONGODB_URI"])
@pytest.mark.parametrize(
    "uri",
    [
        "canary",
        "https://canary/",
        "mongodb://u:canary@[::",
        "mongodb://u:can@ry@h/",
        "mongodb://u:c/anary@h/",
    ],
)
def test_what_is_no_address_of_a_database_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, uri: str
) -> None:
    monkeypatch.setenv(name, uri)
    with pytest.raises(ConfigError, match=f" {name}: must read mongodb://") as caught:
        load()
    assert "canary" not in caught.value.detail
    assert "can@ry" not in caught.value.detail


def test_lists_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIA_ALLOWED_HOSTS", "media.example, cdn.example:8443 ,")
    assert load().media_allowed_hosts == ("media.example", "cdn.example:8443")


def test_a_dyno_is_production_and_listens_to_its_router(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNO", "web.1")
    assert (load().app_env, load().host) == ("production", "0.0.0.0")  # noqa: S104
    monkeypatch.setenv("HOST", "127.0.0.1")
    assert load().host == "127.0.0.1"


def test_the_one_plain_key_is_admitted_by_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "k" * 32
    other = hashlib.sha256(b"other").hexdigest()
    monkeypatch.setenv("API_KEYS", f"cms:index:{other}")
    monkeypatch.setenv("API_KEY", key)
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert load().key_entries == f"cms:index:{other},api-key:admin:{digest}"
    monkeypatch.setenv("API_KEY", "short")
    with pytest.raises(ConfigError, match="API_KEY: must have at least 24 characters"):
        load()


def test_access_keys_of_the_dialect_are_checked_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DIALECT_KEYS", "AKONE:canary/+=:admin, AKTWO:secret-2:search:one+two")
    assert "canary" not in repr(load())
    for wrong, message in {
        "AKONE:canary-1": "accessKeyId:secret:role",
        "AKONE:canary-1:owner": "accessKeyId:secret:role",
        "A B:canary-1:admin": "each accessKeyId",
        "AKONE:canary-1:admin,AKONE:canary-2:admin": "each accessKeyId",
        "AKONE::admin": "each secret",
        "AKONE:canary-1:admin:one+a b": "each collection",
    }.items():
        monkeypatch.setenv("AWS_DIALECT_KEYS", wrong)
        with pytest.raises(ConfigError, match="AWS_DIALECT_KEYS") as error:
            load()
        assert message in error.value.detail
        assert "canary" not in error.value.detail
    monkeypatch.setenv("APP_ENV", "production")
    monkeypatch.setenv("AWS_DIALECT_KEYS", "AKONE:canary-1:admin")
    with pytest.raises(ConfigError, match="16 characters"):
        load()


def test_a_sources_name_is_read_without_what_surrounds_it() -> None:
    assert Settings(cms_source_name=" cms \n").cms_source_name == "cms"
    assert Settings(cms_source_name="  ").cms_source_name is None
    for name in ("api", "a\tb", "x" * 101):
        with pytest.raises(ValueError, match="cms_source_name"):
            Settings(cms_source_name=name)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *(
            ("MONGODB_DATABASE", value)
            for value in ("a.b", "a b", '"likeness"', "x" * 64, "\udcff")
        ),
        ("CMS_MONGODB_DATABASE", "a$b"),
        *(("CMS_MONGODB_COLLECTION", value) for value in ("a$b", "..", ".media", "x" * 236)),
        *(("FACE_MODEL", value) for value in ("facenet", "facenet512 ", '"facenet512"')),
        ("MODELS", "sface,facenet"),
        *(("TRUSTED_PROXIES", value) for value in ("10.0.0.0/33", '"10.0.0.1"', "proxy.example")),
        *(("MEDIA_ALLOWED_HOSTS", value) for value in ("*", "cms.example:99999", "a b", '"a.b"')),
        *(("RATE_LIMIT_PER_KEY", value) for value in ("lots", "-1/minute", "1/fortnight", " ")),
        ("RATE_LIMIT_PER_ADDRESS", '"600/minute"'),
        *(("RATE_LIMIT_PER_ADDRESS", f"600/minute{sign}10/second") for sign in ";,|"),
        *(("CORS_ORIGINS", value) for value in ("cms.example", "https://cms.example/", "'*'")),
        ("CORS_ORIGINS", "https://CMS.example"),
        *(
            ("CMS_HTTP_URL", value)
            for value in ("nonsense", "http://u:p@cms/", "http://cms:99999/")
        ),
        ("CMS_BASE_URL", "ftp://cms.example/"),
        *(
            ("ENCODER_URL", value)
            for value in ("nonsense", "ftp://e/", "http://e:99999/", '"http://e"')
        ),
        *(("ENCODER_API_KEY", value) for value in ("key\r", "a\nb", "schl\u00fcssel")),
        ("API_KEY", "a" * 30 + "\r"),
        ("CMS_HOOK_SECRET", "secret\n"),
    ],
)
def test_a_value_of_another_form_is_named_at_start(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: str
) -> None:
    monkeypatch.setenv(name, wrong)
    with pytest.raises(ConfigError, match=f"^The configuration cannot be used. {name}: ") as caught:
        load()
    assert "SECRET" not in name or wrong not in caught.value.detail


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("MONGODB_DATABASE", "likeness-2_b"),
        ("CMS_MONGODB_COLLECTION", "cms.media files"),
        ("FACE_MODEL", "sface"),
        ("MODELS", "sface, facenet128"),
        ("TRUSTED_PROXIES", "10.0.0.1/8, ::1, *"),
        ("MEDIA_ALLOWED_HOSTS", "*.cms.example, https://cdn.example:8443, 127.0.0.1:9"),
        ("RATE_LIMIT_PER_KEY", "10 per 2 minutes"),
        ("RATE_LIMIT_PER_ADDRESS", "0/minute"),
        ("CORS_ORIGINS", "https://cms.example, http://[::1]:3000, capacitor://localhost, *"),
        ("CMS_HTTP_URL", "http://127.0.0.1:9/list?site=1"),
        ("ENCODER_URL", "https://user:word@encoder.example/below"),
        ("ENCODER_API_KEY", "lk_abc def"),
        ("CMS_HOOK_SECRET", "schl\u00fcssel"),
    ],
)
def test_what_the_service_can_use_is_accepted(
    monkeypatch: pytest.MonkeyPatch, name: str, right: str
) -> None:
    monkeypatch.setenv(name, right)
    load()
