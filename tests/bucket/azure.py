#!/usr/bin/env python3
"""Makes a container in Azurite, whose account and key are those that its documentation names: azure.py ADDRESS CONTAINER."""

import base64
import email.utils
import hashlib
import hmac
import sys
import time
import urllib.error
import urllib.request

ACCOUNT = "devstoreaccount1"
KEY = base64.b64decode("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==")


def request(address, container):
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    told = "\n".join(f"{name}:{value}" for name, value in headers.items())
    # Method, ten headers that are not there (the length of nothing is one of them), and what is asked.
    text = f"PUT{chr(10) * 12}{told}\n/{ACCOUNT}/{ACCOUNT}/{container}\nrestype:container"
    signature = base64.b64encode(hmac.digest(KEY, text.encode(), hashlib.sha256)).decode()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
    return urllib.request.Request(f"{address}/{ACCOUNT}/{container}?restype=container", method="PUT", headers=headers)


def main():
    address, container = sys.argv[1:]
    for _ in range(150):
        try:
            urllib.request.urlopen(request(address, container)).close()
            return
        except urllib.error.HTTPError as error:
            sys.exit(f"{error}: {error.read().decode()}")
        except OSError:
            time.sleep(0.2)
    sys.exit("Azurite does not answer")


if __name__ == "__main__":
    main()
