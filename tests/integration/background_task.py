"""Define the task of django-tasks that writes into a session."""

from django_tasks import task

from sessions_history.exceptions import StreamFinished
from sessions_history.writer import open_stream
from tests.integration.worker_answer import write_answer


@task()
def answer(session_id: str, key: str, folder: str) -> None:
    """Stream an answer; a task with the key of another goes on with its entry."""
    try:
        with open_stream(session_id, key=key) as stream:
            write_answer(stream, folder)
    except StreamFinished:
        return
