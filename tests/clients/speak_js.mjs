// Makes the calls that come on stdin, one JSON object a line, with an unmodified AWS SDK v3.
// Endpoint, keys and region come from the environment.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(process.env.CLIENTS_MODULES + "/");
const sdk = require("@aws-sdk/client-rekognition");

const prepared = (value) => {
  if (Array.isArray(value)) return value.map(prepared);
  if (value === null || typeof value !== "object") return value;
  if ("$file" in value) return new Uint8Array(readFileSync(value.$file));
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, prepared(item)]));
};

const answer = async (client, call) => {
  const given = prepared(call.given);
  if (call.page_size === undefined) {
    return client.send(new sdk[call.operation + "Command"](given));
  }
  const pages = [];
  const config = { client, pageSize: call.page_size };
  for await (const page of sdk["paginate" + call.operation](config, given)) pages.push(page);
  return pages;
};

const client = new sdk.RekognitionClient({});
for await (const line of createInterface({ input: process.stdin })) {
  let told;
  try {
    told = { answer: await answer(client, JSON.parse(line)) };
  } catch (error) {
    if (error.$metadata?.httpStatusCode === undefined) throw error;
    told = { error: error.name };
  }
  console.log(JSON.stringify(told));
}
