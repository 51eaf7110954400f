"""A synchronous stack: a WSGI application that asks a backend and waits for it, as many gateways are written."""
import os

import requests

session = requests.Session()
session.trust_env = False


def app(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    r = session.request(environ["REQUEST_METHOD"], os.environ["BACKEND"] + environ["PATH_INFO"], data=body,
                        headers={"Content-Type": "application/json"})
    start_response(f"{r.status_code} {r.reason}", [("Content-Type", r.headers["Content-Type"]),
                                                  ("Content-Length", str(len(r.content)))])
    return [r.content]
