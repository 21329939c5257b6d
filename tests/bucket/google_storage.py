#!/usr/bin/env python3
"""Google Cloud Storage on loopback, with one empty bucket: google_storage.py PORT BUCKET.

Objects, generations and preconditions are those of storage-testbench, which Google tests its clients with. Of the XML API, that
`object_store` speaks, it has only PUT and GET, without ETags; the rest is here. A page of a list has 50 names, so that there are several.
"""

import email.utils
import sys
import xml.sax.saxutils

import flask
import gcs
import testbench
from testbench.rest_server import db

PAGE = 50
app = flask.Flask(__name__)


def text(name, value):
    return f"<{name}>{xml.sax.saxutils.escape(str(value))}</{name}>"


def document(*elements, status=200):
    name = "ListBucketResult" if status == 200 else "Error"
    return flask.Response(f"<?xml version='1.0'?><{name}>{''.join(elements)}</{name}>", status, content_type="application/xml")


@app.errorhandler(testbench.error.RestException)
def failed(error):
    missing = "NoSuchBucket" if "Bucket " in error.msg else "NoSuchKey"
    code = {404: missing, 412: "PreconditionFailed"}.get(error.code, "InvalidArgument")
    return document(text("Code", code), text("Message", error.msg), status=error.code)


def conditions():
    return testbench.common.make_xml_preconditions(flask.request)


def answer(blob, body=b"", status=200, **headers):
    made = blob.metadata.create_time.ToSeconds()
    headers |= {"ETag": f'"{blob.metadata.generation}"', "x-goog-generation": str(blob.metadata.generation),
                "Last-Modified": email.utils.formatdate(made, usegmt=True)}
    return flask.Response(body, status, headers)


@app.get("/<bucket>")
def listed(bucket):
    db.get_bucket(bucket, None)
    objects, prefixes = db.list_object(flask.request, bucket, None)
    asked = flask.request.args
    after = asked.get("continuation-token") or asked.get("start-after") or ""
    objects = sorted((one for one in objects if one.name > after), key=lambda one: one.name)
    shown = objects[:min(PAGE, int(asked.get("max-keys", PAGE)))]
    elements = [f"<Contents>{text('Key', one.name)}{text('Size', one.size)}{text('LastModified', one.create_time.ToJsonString())}"
                f"{text('ETag', one.generation)}</Contents>" for one in shown]
    if len(shown) < len(objects):
        elements.append(text("NextContinuationToken", shown[-1].name))
    else:
        elements += [f"<CommonPrefixes>{text('Prefix', prefix)}</CommonPrefixes>" for prefix in sorted(prefixes)]
    return document(*elements)


@app.put("/<bucket>/<path:name>")
def put(bucket, name):
    blob, _ = gcs.object.Object.init_xml(flask.request, db.get_bucket(bucket, None).metadata, name)
    db.insert_object(bucket, blob, preconditions=conditions())
    return answer(blob)


@app.get("/<bucket>/<path:name>")
def get(bucket, name):
    blob = db.get_object(bucket, name, preconditions=conditions())
    wanted = flask.request.range
    if wanted is None:
        return answer(blob, blob.media)
    first, end = wanted.range_for_length(len(blob.media))
    return answer(blob, blob.media[first:end], 206, **{"Content-Range": f"bytes {first}-{end - 1}/{len(blob.media)}"})


@app.delete("/<bucket>/<path:name>")
def delete(bucket, name):
    db.delete_object(bucket, name, preconditions=conditions())
    return flask.Response(status=204)


def main():
    port, name = sys.argv[1:]
    with app.test_request_context(method="POST", json={"name": name}):
        bucket, _ = gcs.bucket.Bucket.init(flask.request, None)
        db.insert_bucket(bucket, None)
    app.run("127.0.0.1", int(port), threaded=True)


if __name__ == "__main__":
    main()
