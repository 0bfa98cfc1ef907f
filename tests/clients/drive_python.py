"""A day with the embedded Atlas in PyMongo's asynchronous client, Motor and LangChain, unchanged.

The URI is the first argument; it ends with status 1 at the first thing that is not as on Atlas.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from typing import Any

from bson.binary import Binary, BinaryVectorDtype
from gridfs import AsyncGridFSBucket
from langchain_core.embeddings import Embeddings
from langchain_mongodb import MongoDBAtlasVectorSearch
from langchain_mongodb.index import drop_vector_search_index, update_vector_search_index
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, InsertOne, MongoClient, UpdateOne
from pymongo.errors import OperationFailure
from pymongo.operations import SearchIndexModel

SCORE = {"$meta": "vectorSearchScore"}


def model(name: str, similarity: str, *filters: str) -> SearchIndexModel:
    vector = {"type": "vector", "path": name, "numDimensions": 3, "similarity": similarity}
    fields = [vector, *({"type": "filter", "path": path} for path in filters)]
    return SearchIndexModel({"fields": fields}, name=name, type="vectorSearch")


def search(name: str, vector: Any, limit: int = 3, **spec: Any) -> dict[str, Any]:
    exact = {} if "numCandidates" in spec else {"exact": True}
    where = {"index": name, "path": name, "queryVector": vector, "limit": limit}
    return {"$vectorSearch": {**where, **exact, **spec}}


async def code_of(awaitable: Any) -> int | None:
    try:
        await awaitable
    except OperationFailure as error:
        return error.code
    return None


async def rows(collection: Any, *stages: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    cursor = await collection.aggregate(list(stages), **options)
    return await cursor.to_list()


async def until(what: str, holds: Any) -> None:
    end = time.monotonic() + 20
    while not await holds():
        assert time.monotonic() < end, f"{what} did not come"
        await asyncio.sleep(0.02)


async def asynchronous(uri: str) -> None:
    async with AsyncMongoClient(uri, appname="a story", compressors="zlib") as client:
        await client.drop_database("story_async")
        faces = await client.story_async.create_collection("faces")
        packed = [Binary.from_vector([n, 0, 1], BinaryVectorDtype.FLOAT32) for n in range(300)]
        await faces.insert_many(
            [{"_id": n, "v": [n, 1, 0], "w": packed[n], "t": n % 3} for n in range(300)]
        )
        names = await faces.create_search_indexes([model("v", "cosine", "t"), model("w", "cosine")])
        assert names == ["v", "w"]

        async def ready() -> bool:
            listed = await (await faces.list_search_indexes()).to_list()
            return all(one["queryable"] and one["status"] == "READY" for one in listed)

        await until("the indexes", ready)
        found = await rows(
            faces,
            search("v", [1, 1, 0], 250, numCandidates=300),
            {"$project": {"score": SCORE}},
            batchSize=7,
        )
        assert len(found) == 250
        assert found == sorted(found, key=lambda row: -row["score"])
        (best,) = await rows(faces, search("w", packed[4], 1, filter={}), {"$project": {"t": 1}})
        assert best == {"_id": 4, "t": 1}
        no_filter = rows(faces, search("w", packed[4], filter={"t": 1}))
        assert await code_of(no_filter) == 8
        assert await code_of(faces.drop_search_index("absent")) == 27
        assert await code_of(client.story_async.absent.drop_search_index("absent")) is None

        async with client.start_session(causal_consistency=True) as session:

            async def write(session: Any) -> None:
                await faces.insert_one({"_id": "t", "v": [0, 0, 1]}, session=session)
                await client.story_async.log.insert_one({"of": "t"}, session=session)

            await session.with_transaction(write)
            await session.start_transaction()
            inside = rows(faces, search("v", [1, 1, 0]), session=session)
            assert await code_of(inside) == 263
            assert await code_of(session.commit_transaction()) == 251

        async def there() -> bool:
            return (await rows(faces, search("v", [0, 0, 1], 1)))[0]["_id"] == "t"

        await until("the transaction's row", there)
        async with await faces.watch() as changes:
            await faces.insert_one({"_id": "c"})
            await faces.delete_one({"_id": "c"})
            token = (await changes.next())["_id"]
        async with await faces.watch(resume_after=token) as changes:
            assert (await changes.next())["operationType"] == "delete"
        requests = [
            InsertOne({"_id": "b"}, namespace="story_async.faces"),
            UpdateOne({"of": "t"}, {"$set": {"n": 1}}, namespace="story_async.log"),
        ]
        written = await client.bulk_write(requests)
        assert (written.inserted_count, written.modified_count) == (1, 1)
        bucket = AsyncGridFSBucket(client.story_async)
        photo = await bucket.upload_from_stream("photo", bytes(1_000_000))
        assert len(await (await bucket.open_download_stream(photo)).read()) == 1_000_000
        large = {"_id": "large", "v": [9, 9, 9], "image": bytes(16 * 2**20 - 200)}
        await faces.insert_one(large)
        await until("the large one", lambda: _first_is(faces, "large"))
        await client.drop_database("story_async")


async def _first_is(faces: Any, _id: str) -> bool:
    return (await rows(faces, search("v", [1, 1, 1], 1)))[0]["_id"] == _id


async def motor(uri: str) -> None:
    client: Any = AsyncIOMotorClient(uri)
    faces = client.story_motor.faces
    await faces.insert_many([{"_id": n, "v": [n, 1, 0]} for n in range(5)])
    await faces.create_search_index(model("v", "euclidean"))

    async def ready() -> bool:
        return all([one["queryable"] async for one in faces.list_search_indexes("v")])

    await until("the index", ready)
    found = await faces.aggregate([search("v", [1, 1, 0], 2), {"$set": {"s": SCORE}}]).to_list(None)
    assert [(row["_id"], row["s"]) for row in found] == [(1, 1.0), (0, 0.5)]
    await client.drop_database("story_motor")
    client.close()


class Words(Embeddings):
    """A text as the counts of its words in sixteen slots."""

    def embed_query(self, text: str) -> list[float]:
        vector = [0.0] * 16
        for word in text.split():
            vector[hashlib.sha256(word.encode()).digest()[0] % 16] += 1
        return vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


def langchain(uri: str) -> None:
    with MongoClient[dict[str, Any]](uri) as client:
        client.drop_database("story_langchain")
        texts = client.story_langchain.create_collection("texts")
        store = MongoDBAtlasVectorSearch(
            texts, Words(), index_name="words", relevance_score_fn="cosine", auto_create_index=False
        )
        store.create_vector_search_index(dimensions=16, filters=["page"], wait_until_complete=20)
        pages = ["a red apple", "a green apple", "the blue sky", "the yellow sun"]
        ids = store.add_texts(pages, [{"page": number} for number in range(4)])

        def told(**options: Any) -> list[str]:
            return [page.page_content for page in store.similarity_search(pages[0], 4, **options)]

        _until("the texts", lambda: len(told()) == 4)
        assert told()[:2] == pages[:2]
        assert store.similarity_search_with_score(pages[0], 1)[0][1] == 1.0
        assert pages[0] not in told(pre_filter={"page": {"$gte": 1}})
        assert told(post_filter_pipeline=[{"$match": {"page": 2}}]) == [pages[2]]
        assert len(store.max_marginal_relevance_search(pages[0], k=2, fetch_k=4)) == 2
        update_vector_search_index(
            texts, "words", "embedding", 16, "euclidean", ["page"], wait_until_complete=20
        )
        assert told()[0] == pages[0]
        store.delete(ids[:1])
        _until("the deletion", lambda: len(told()) == 3)
        drop_vector_search_index(texts, "words", wait_until_complete=20)
        assert list(texts.list_search_indexes()) == []
        client.drop_database("story_langchain")


def _until(what: str, holds: Any) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(asynchronous(sys.argv[1]))
    asyncio.run(motor(sys.argv[1]))
    langchain(sys.argv[1])
