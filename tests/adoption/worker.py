"""
Run sources and management commands in a project, one for each line of the input.

A process for each would take longer than all checks.
"""

import contextlib
import io
import json
import sys
import traceback
from typing import Any

import django
from django.core.management import execute_from_command_line
from django.db import connections


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run one request; return its exit code and what it wrote."""
    written, errors = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(errors):
        try:
            if "source" in request:
                exec(request["source"], {})
            else:
                execute_from_command_line(["manage.py", *request["argv"]])
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else int(bool(exc.code))
        except Exception:
            traceback.print_exc()
            code = 1
        finally:
            connections.close_all()
    return {"code": code, "output": written.getvalue(), "errors": errors.getvalue()}


django.setup()
for line in sys.stdin:
    print(json.dumps(run(json.loads(line))), flush=True)
