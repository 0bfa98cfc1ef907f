"""Makes the calls that come on stdin, one JSON object a line, with an unmodified boto3.

Runs in the clients' own environment. Endpoint, keys and region come from the environment.
"""

import json
import sys

import boto3
from botocore.exceptions import ClientError


def prepared(value):
    """The value with the bytes of each `{"$file": path}`."""
    if isinstance(value, dict):
        if "$file" in value:
            with open(value["$file"], "rb") as file:
                return file.read()
        return {name: prepared(item) for name, item in value.items()}
    if isinstance(value, list):
        return [prepared(item) for item in value]
    return value


def snake(name):
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


def answer(client, call):
    given = prepared(call["given"])
    if "page_size" in call:
        config = {"PageSize": call["page_size"]}
        pages = client.get_paginator(snake(call["operation"])).paginate(
            **given, PaginationConfig=config
        )
        return list(pages)
    return getattr(client, snake(call["operation"]))(**given)


def main():
    client = boto3.client("rekognition")
    for line in sys.stdin:
        try:
            told = {"answer": answer(client, json.loads(line))}
        except ClientError as error:
            told = {"error": error.response["Error"]["Code"]}
        sys.stdout.write(json.dumps(told, default=str) + "\n")
        sys.stdout.flush()


main()
