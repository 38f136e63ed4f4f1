# SPDX-License-Identifier: Apache-2.0
"""A real MLflow tracking server on a free port of loopback, which it prints. Runs under the interpreter of .trackers.

It serves MLflow's own WSGI application: its command starts a second process that imports everything again.
"""

import os
import sys

os.environ["_MLFLOW_SERVER_FILE_STORE"], os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = sys.argv[1:]
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from mlflow.server import app  # noqa: E402 - it reads the environment
from werkzeug.serving import make_server  # noqa: E402

server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.server_port, flush=True)  # noqa: T201 - for the test that started it
server.serve_forever()
