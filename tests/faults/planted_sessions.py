"""The flaws of sessions that the machine of tests/simulation has to find."""

from tests.faults.flaws import Flaw

_SQLITE = "sessions_history/backends/sqlite.py"
_TRANSACTION = "sessions_history/transaction.py"

FLAWS = {
    "an-outage-is-acked": Flaw(
        path="sessions_history/group_commit.py",
        right="future.set_exception(DatabaseUnavailable(str(exc)))",
        wrong=(
            'future.set_result(Committed(epoch="", offset=1, mark="1-1-" + "0" * 12))'
        ),
        shows="was acked",
    ),
    "an-ack-names-the-last-entry": Flaw(
        path=_TRANSACTION,
        right="epoch=session.epoch, offset=offset, mark=session.chain)",
        wrong="epoch=session.epoch, offset=offset + 1, mark=session.chain)",
        shows="acked at",
    ),
    "keys-are-trimmed-with-their-entries": Flaw(
        path=_SQLITE,
        right="                self._execute(TRIM, [dump(changes.thresholds)])\n",
        wrong=(
            "                self._execute(TRIM, [dump(changes.thresholds)])\n"
            "                for one in changes.thresholds:\n"
            "                    self._execute(\n"
            '                        "DELETE FROM sessions_history_appendkey WHERE"\n'
            "                        ' session_id = ? AND \"offset\" <= ?', one\n"
            "                    )\n"
        ),
        shows="Broken",
    ),
    "streams-are-trimmed": Flaw(
        path=_SQLITE,
        right=""" AND e.state <> 'streaming'\n)""",
        wrong="\n)",
        shows="are kept",
    ),
    "a-stop-is-confirmed-and-forgotten": Flaw(
        path="sessions_history/producers.py",
        right="return stream if stream.end_as(State.CANCELLED) else None",
        wrong="return stream",
        shows="Broken",
    ),
    "an-end-forgets-the-chunks": Flaw(
        path=_TRANSACTION,
        right="data, parts = chunks.read_whole(found.entry_id)",
        wrong="""data, parts = '{"text":""}', \"\"""",
        shows="lost text",
    ),
    "an-attach-ignores-the-epoch": Flaw(
        path="sessions_history/reads.py",
        right="return self.epoch == position.epoch and self.offset",
        wrong="return self.offset",
        shows="with another epoch",
    ),
    "a-commit-that-does-not-follow-on-is-no-doubt": Flaw(
        path="sessions_history/known_commits.py",
        right="return len(self._runs) > 1",
        wrong="return False",
        shows="Broken",
    ),
    "a-trim-is-no-gap": Flaw(
        path="sessions_history/resume.py",
        right="    return expected if expected > after else 0\n",
        wrong="    return 0\n",
        shows="page",
    ),
    "growth-without-its-base": Flaw(
        path="sessions_history/subscribers.py",
        right="                entry = entry.with_text(growing.text, entry.state)\n",
        wrong="",
        shows="Broken",
    ),
    "the-end-of-a-trimmed-answer-is-not-told": Flaw(
        path="sessions_history/fan_out.py",
        right="            tail.lose(offset)\n",
        wrong="            continue\n",
        shows="is written for ever",
    ),
    "a-lost-reply-is-not-read-again": Flaw(
        path="sessions_history/work_leases.py",
        right="unknown = keys.keys() - streams.keys()",
        wrong="unknown: set[WorkKey] = set()",
        shows="streams",
    ),
    "work-is-taken-over-before-its-lease-ends": Flaw(
        path="sessions_history/work.py",
        right="is_left = models.Q(leased_until__lt=Now())",
        wrong="is_left = models.Q(leased_until__isnull=False)",
        shows="Broken",
    ),
    "the-other-node-caches-the-last-offset": Flaw(
        path="sessions_history/fan_out.py",
        right="await self._read_again(tail, ended)\n        tail.move_to(",
        wrong="await self._read_again(tail, ended)\n        range(",
        shows="is at",
    ),
}
