"""Whether the service in this container answers, without curl.

`python healthy.py PORT_VARIABLE PATH [SUB_PATH_VARIABLE ...]`: below the first sub-path that is set.
"""

import http.client
import os
import sys

variable, path, *sub_paths = sys.argv[1:]
sub_path = next((found for found in (os.environ.get(name, "").strip("/") for name in sub_paths) if found), "")
connection = http.client.HTTPConnection("127.0.0.1", int(os.environ[variable]), timeout=3)
try:
    connection.request("GET", f"/{sub_path}{path}" if sub_path else path)
    status = connection.getresponse().status
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"no answer: {error}")
sys.exit(None if status == http.HTTPStatus.OK else f"status {status}")
