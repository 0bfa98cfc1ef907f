"""The connection to the CMS's own database, which may be another cluster than ours."""

from __future__ import annotations

from typing import Any

from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import ConfigurationError, InvalidURI

from faces.database import DEFAULT_NAME, OWN_COLLECTIONS
from faces.errors import ConfigError
from faces.settings import Settings


def records_of(settings: Settings, *, deadline: bool = True) -> Collection[Any]:
    """The CMS's collection, by a client that has not connected yet and that its source closes.

    Without `deadline` its commands have no time limit: for a change stream.

    CMS_MONGODB_URI defaults to MONGODB_URI, the database to the URI's. Raises ConfigError for what
    is missing, and for a namespace that is one of our own.
    """
    uri = settings.cms_mongodb_uri or settings.mongodb_uri
    if uri is None or settings.cms_mongodb_collection is None:
        raise ConfigError("CMS_SOURCE=mongo needs CMS_MONGODB_URI and CMS_MONGODB_COLLECTION.")
    try:
        client: MongoClient[Any] = MongoClient(
            uri.get_secret_value(),
            connect=False,
            appname="likeness-source",
            maxPoolSize=4,
            maxIdleTimeMS=60_000,
            socketTimeoutMS=30_000 if deadline else None,
            serverSelectionTimeoutMS=5000,
            connectTimeoutMS=5000,
            tz_aware=True,
            # What Python cannot hold (a date beyond year 9999, text that is no UTF-8) is read all
            # the same: it is one record's trouble, not the listing's.
            uuidRepresentation="standard",
            datetime_conversion="DATETIME_AUTO",
            unicode_decode_error_handler="replace",
        )
        database = (
            client[settings.cms_mongodb_database]
            if settings.cms_mongodb_database
            else client.get_default_database()
        )
    except (InvalidURI, ConfigurationError, ValueError, TypeError):
        raise ConfigError(
            "CMS_MONGODB_URI is no valid MongoDB URI, or it names no database: then set"
            " CMS_MONGODB_DATABASE."
        ) from None
    ours = settings.mongodb_database or DEFAULT_NAME
    same_server = settings.cms_mongodb_uri in (None, settings.mongodb_uri)
    if settings.cms_mongodb_collection in OWN_COLLECTIONS and (
        same_server or database.name == ours
    ):
        client.close()
        raise ConfigError("CMS_MONGODB_COLLECTION is one of the service's own collections.")
    return database[settings.cms_mongodb_collection]
