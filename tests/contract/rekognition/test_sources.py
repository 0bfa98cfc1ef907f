"""Pictures named instead of sent: Bucket is a CMS source, Name an item of it."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.contract.api.conftest import ROOT, Service, Start
from tests.contract.rekognition.conftest import KEYS, client_for

pytestmark = pytest.mark.xdist_group("rekognition")
Rekognition = Any


@pytest.fixture(scope="module")
def photo(samples_dir: Path) -> Path:
    return sorted((samples_dir / "gallery" / "madonna").iterdir())[0]


@pytest.fixture(scope="module")
def collection() -> str:
    return f"archive-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def archive(
    start: Start,
    migrated: dict[str, str],
    photo: Path,
    collection: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Service:
    """A service whose source `archive` is a folder with one indexed photo."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "2024").mkdir()
    shutil.copy(photo, folder / "2024" / "ada l.jpg")
    env = {
        **migrated,
        "CMS_SOURCE": "folder",
        "CMS_SOURCE_NAME": f"src-{collection}",
        "CMS_FOLDER": str(folder),
        "CMS_COLLECTION": collection,
    }
    done = subprocess.run(
        [sys.executable, "-m", "indexer", "once"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    keys = ",".join(
        f"{key}:{KEYS[key][0]}:{rights}"
        for key, rights in (("AKADMIN", "admin"), ("AKBOUND", "search:elsewhere"))
    )
    return start("/readyz", AWS_DIALECT_KEYS=keys, **env)


def test_an_item_of_a_source_is_read_where_it_is(
    archive: Service, photo: Path, collection: str
) -> None:
    client = client_for(archive.url)
    place = {"Bucket": f"src-{collection}", "Name": "2024/ada l.jpg"}
    (stored,) = client.list_faces(CollectionId=collection)["Faces"]
    assert stored["ExternalImageId"] == "2024:2Fada:20l.jpg"
    found = client.search_faces_by_image(CollectionId=collection, Image={"S3Object": place})
    assert [match["Face"]["FaceId"] for match in found["FaceMatches"]] == [stored["FaceId"]]
    assert found["FaceMatches"][0]["Similarity"] > 99
    # The source's own item is told of, and not stored twice.
    again = client.index_faces(
        CollectionId=collection,
        Image={"S3Object": place},
        ExternalImageId=stored["ExternalImageId"],
    )
    assert [record["Face"]["FaceId"] for record in again["FaceRecords"]] == [stored["FaceId"]]
    assert client.describe_collection(CollectionId=collection)["FaceCount"] == 1
    client.close()


def test_anything_else_is_refused_by_name(archive: Service, collection: str) -> None:
    admin, bound = client_for(archive.url), client_for(archive.url, "AKBOUND")
    good = {"Bucket": f"src-{collection}", "Name": "2024/ada l.jpg"}
    for client, place in (
        (admin, {**good, "Name": "../../etc/passwd"}),
        (admin, {**good, "Bucket": "api"}),
        (admin, {**good, "Version": "1"}),
        (bound, good),
    ):
        with pytest.raises(ClientError) as error:
            client.detect_faces(Image={"S3Object": place})
        assert error.value.response["Error"]["Code"] == "InvalidS3ObjectException"
    admin.close()
    bound.close()
