"""
Define the tasks of a worker of Celery that writes into sessions.

Its broker is the folder that BROKER_FOLDER names.
"""

import os
from pathlib import Path
from typing import Any

import django
from celery import Celery

django.setup()

from sessions_history.writer import open_stream  # noqa: E402
from tests.integration.worker_answer import write_answer  # noqa: E402

app = Celery("answers", set_as_current=False)


def use_folder(folder: Path) -> None:
    """Make a folder the broker of the app."""
    queue = folder / "queue"
    queue.mkdir(parents=True, exist_ok=True)
    app.conf.update(
        broker_url="filesystem://",
        broker_transport_options={
            "data_folder_in": str(queue),
            "data_folder_out": str(queue),
            "control_folder": str(folder / "control"),
        },
        broker_connection_retry_on_startup=True,
        worker_prefetch_multiplier=1,
    )


if "BROKER_FOLDER" in os.environ:
    use_folder(Path(os.environ["BROKER_FOLDER"]))


@app.task(  # type: ignore[untyped-decorator]
    name="answer", bind=True, acks_late=True, reject_on_worker_lost=True
)
def answer(task: Any, session_id: str, folder: str) -> None:
    """Stream an answer, each attempt with the same key."""
    with open_stream(session_id, key=task.request.id) as stream:
        write_answer(stream, folder)
