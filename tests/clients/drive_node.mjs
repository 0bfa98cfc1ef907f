// A day with the embedded Atlas in the MongoDB driver for Node.js and in Mongoose, neither changed.
// The URI is the first argument; it ends with status 1 at the first thing that is not as on Atlas.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";

const require = createRequire(process.env.CLIENTS_MODULES + "/");
const { Binary, GridFSBucket, Long, MongoClient } = require("mongodb");
const mongoose = require("mongoose");

const [uri] = process.argv.slice(2);
const vector = (path, similarity) => ({ type: "vector", path, numDimensions: 3, similarity });
const packed = (...values) => Binary.fromFloat32Array(new Float32Array(values));
const score = { $meta: "vectorSearchScore" };

const client = new MongoClient(uri, { appName: "a story", compressors: ["zlib"], maxPoolSize: 8 });
const db = client.db("story_node");
const faces = await db.createCollection("faces");
const search = (spec, ...stages) =>
  faces.aggregate([{ $vectorSearch: { index: "v", path: "v", ...spec } }, ...stages]);
const until = async (what, holds) => {
  for (const end = Date.now() + 20_000; !(await holds()); await sleep(20)) {
    assert.ok(Date.now() < end, `${what} did not come`);
  }
};
const ready = async (collection, name) => {
  const [index] = await collection.listSearchIndexes(name).toArray();
  return index?.queryable && index.status === "READY";
};
const refused = (promise, code) => assert.rejects(promise, { code });

// Indexes: create, list, wait, update, drop.
await faces.insertMany(
  Array.from({ length: 300 }, (_, n) => ({ _id: n, v: [n, 1, 0], w: packed(n, 0, 1), t: n % 3 })),
);
const fields = [vector("v", "cosine"), { type: "filter", path: "t" }];
const v = { name: "v", type: "vectorSearch", definition: { fields } };
const w = { name: "w", type: "vectorSearch", definition: { fields: [vector("w", "dotProduct")] } };
assert.equal(await faces.createSearchIndex(v), "v");
assert.deepEqual(await faces.createSearchIndexes([v, w]), ["v", "w"]);
await until("the indexes", async () => (await ready(faces, "v")) && (await ready(faces, "w")));
await refused(faces.createSearchIndex({ ...w, name: "v" }), 68);
await refused(db.collection("absent").createSearchIndex(v), 26);
assert.deepEqual(await db.collection("absent").listSearchIndexes().toArray(), []);

// Searches: many batches in order, filters, BinData, int64 limits, explain, errors.
const cursor = search({ queryVector: [1, 1, 0], numCandidates: 300, limit: 250 }, { $set: { score } });
const rows = await cursor.batchSize(9).toArray();
assert.equal(rows.length, 250);
assert.ok(rows.every((row, n) => !n || row.score <= rows[n - 1].score));
const filter = { t: { $in: [0, 2] } };
const near = search({ queryVector: [5, 1, 0], exact: true, limit: 2, filter }, { $project: { score } });
assert.deepEqual((await near.toArray()).map((row) => row._id), [5, 6]);
const binary = { index: "w", path: "w", queryVector: packed(1, 0, 1), exact: true };
const [best] = await search({ ...binary, limit: new Long(1n) }, { $project: { score } }).toArray();
assert.deepEqual(best, { _id: 299, score: 150.5 });
const plan = search({ queryVector: [1, 1, 0], numCandidates: 9, limit: 3 });
assert.equal((await plan.explain()).ok, 1);
await refused(search({ queryVector: [1, 1], numCandidates: 9, limit: 3 }).toArray(), 8);
await refused(search({ queryVector: [1, 1, 0], numCandidates: 9, limit: 0 }).toArray(), 7912700);

// Transactions, sessions, change streams that resume, bulk writes of both kinds, GridFS.
await client.withSession(async (session) => {
  await session.withTransaction(async () => {
    await faces.insertOne({ _id: "t", v: [0, 0, 1] }, { session });
    await db.collection("log").insertOne({ of: "t" }, { session });
  });
  session.startTransaction();
  const inside = [{ $vectorSearch: { index: "v", path: "v", queryVector: [1, 1, 0], exact: true, limit: 1 } }];
  await refused(faces.aggregate(inside, { session }).toArray(), 263);
  await session.abortTransaction();
});
const found = async () => (await search({ queryVector: [0, 0, 1], exact: true, limit: 1 }).toArray())[0];
await until("the transaction's row", async () => (await found())?._id === "t");
const changes = faces.watch();
const first = changes.next();
await sleep(100);
await faces.insertOne({ _id: "c" });
await faces.deleteOne({ _id: "c" });
const { _id: resumeAfter, operationType } = await first;
assert.equal(operationType, "insert");
await changes.close();
const resumed = faces.watch([], { resumeAfter });
assert.equal((await resumed.next()).operationType, "delete");
await resumed.close();
const bulk = await client.bulkWrite([
  { name: "insertOne", namespace: "story_node.faces", document: { _id: "b", v: [0, 0, 2] } },
  { name: "updateOne", namespace: "story_node.log", filter: { of: "t" }, update: { $set: { n: 1 } } },
]);
assert.deepEqual([bulk.insertedCount, bulk.modifiedCount], [1, 1]);
await faces.bulkWrite([{ deleteOne: { filter: { _id: "b" } } }, { deleteOne: { filter: { _id: "t" } } }]);
await until("the deletion", async () => !["t", "b", undefined].includes((await found())?._id));
const bucket = new GridFSBucket(db);
const upload = bucket.openUploadStream("photo");
await new Promise((done, failed) => upload.on("finish", done).on("error", failed).end(Buffer.alloc(1_000_000, 7)));
let length = 0;
for await (const chunk of bucket.openDownloadStream(upload.id)) length += chunk.length;
assert.equal(length, 1_000_000);
const busy = Array.from({ length: 100 }, () => search({ queryVector: [1, 1, 0], exact: true, limit: 30 }).toArray());
assert.ok((await Promise.all(busy)).every((each) => each.length === 30));

await faces.updateSearchIndex("v", { fields: [vector("v", "euclidean")] });
await until("the update", async () => {
  const [index] = await faces.listSearchIndexes("v").toArray();
  return index.status === "READY" && index.latestDefinitionVersion.version === 1;
});
await faces.dropSearchIndex("w");
await until("the drop", async () => (await faces.listSearchIndexes().toArray()).length === 1);
await refused(faces.dropSearchIndex("w"), 27);
await db.collection("absent").dropSearchIndex("w"); // drivers swallow code 26
await db.dropDatabase();
await client.close();

// Mongoose: indexes of a schema, a search through the model, a transaction.
await mongoose.connect(uri, { dbName: "story_mongoose" });
const schema = new mongoose.Schema({ name: String, v: [Number], tag: String });
const tagged = [...fields.slice(0, 1), { type: "filter", path: "tag" }];
schema.searchIndex({ name: "v", type: "vectorSearch", definition: { fields: tagged } });
const Thing = mongoose.model("Thing", schema);
await Thing.createCollection();
await Thing.create([{ name: "a", v: [1, 0, 0], tag: "x" }, { name: "b", v: [0, 1, 0], tag: "y" }]);
await Thing.createSearchIndexes();
await until("the model's index", async () => ready(Thing.collection, "v"));
const things = await Thing.aggregate([
  { $vectorSearch: { index: "v", path: "v", queryVector: [1, 0, 0], numCandidates: 9, limit: 2, filter: { tag: "y" } } },
  { $project: { _id: 0, name: 1, score } },
]);
assert.deepEqual(things, [{ name: "b", score: 0.5 }]);
await mongoose.connection.transaction((session) => Thing.create([{ name: "c" }], { session }));
assert.equal(await Thing.countDocuments(), 3);
await Thing.dropSearchIndex("v");
await mongoose.connection.dropDatabase();
await mongoose.disconnect();
