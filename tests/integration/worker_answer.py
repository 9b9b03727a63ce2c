"""Write the answer that the workers of tests give: words, and parts around them."""

import os
import signal
from pathlib import Path

from sessions_history.parts import Part
from sessions_history.writer import SyncStream

WORDS = [f"word{number} 👩‍👩‍👧 " for number in range(40)]
HALF = "".join(WORDS[:20])
PARTS = [
    {"id": "r", "type": "reasoning", "author": "planner", "text": "I count."},
    {
        "id": "c",
        "type": "tool_call",
        "name": "count",
        "arguments": '{"to":40}',
        "state": "done",
        "result": 40,
    },
    {"id": "text-3", "type": "text", "text": "".join(WORDS)},
    {"id": "u", "type": "usage", "output_tokens": 40},
]


def write_answer(stream: SyncStream, folder: str) -> None:
    """Write what is missing; the first attempt stops amid it, until it is killed."""
    is_first, so_far = not stream.text, stream.text
    if is_first:
        stream.write(Part("reasoning", id="r", author="planner", text="I count."))
        stream.write(Part("tool_call", id="c", name="count", arguments='{"to":40}'))
    for word in WORDS[so_far.count("👩‍👩‍👧") :]:
        stream.write(word)
        if is_first and stream.text == HALF:
            (Path(folder) / "pid").write_text(str(os.getpid()))
            signal.pause()
    stream.write(Part("tool_call", id="c", state="done", result=40))
    stream.write(Part("usage", id="u", output_tokens=40))
