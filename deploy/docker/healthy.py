"""Whether the service in this container answers, without curl: `python healthy.py PORT_VARIABLE PATH`."""

import http.client
import os
import sys

variable, path = sys.argv[1:]
connection = http.client.HTTPConnection("127.0.0.1", int(os.environ[variable]), timeout=3)
try:
    connection.request("GET", path)
    status = connection.getresponse().status
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"no answer: {error}")
sys.exit(None if status == http.HTTPStatus.OK else f"status {status}")
