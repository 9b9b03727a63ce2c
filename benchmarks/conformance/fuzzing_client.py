"""
Run cases of the Autobahn suite: fuzzing_client.py FOLDER SPECIFICATION.

This script runs on CPython 2.7, as the suite requires. FOLDER is the installed
suite, SPECIFICATION the JSON that `wstest --mode fuzzingclient` reads from a file.
"""

# Python 2.7 has no annotations, and its libraries are not installed here.
# mypy: ignore-errors

import json
import re
import site
import sys

_SURROGATE = re.compile(b"\xed[\xa0-\xbf]")


def main(folder, specification):
    # zope is a namespace package, which needs the .pth files of a site folder.
    site.addsitedir(folder)
    sys.path.insert(0, folder)
    from autobahn.websocket import protocol
    from autobahntestsuite import fuzzing
    from twisted.internet import reactor

    protocol.Utf8Validator = make_fast(protocol.Utf8Validator)
    fuzzing.startClient(json.loads(specification))
    reactor.run()


def make_fast(validator):
    """
    Return a subclass of the suite's validator of UTF-8 with the same answers.

    The suite's own looks at one byte after another in Python: nine tenths of its time
    for a message of 128 kB. What begins and ends between two characters is checked by
    the codec; everything else, and each fault, by the suite's own.
    """

    class FastValidator(validator):
        def validate(self, ba):
            if self.state or not is_utf8(ba):
                return validator.validate(self, ba)
            self.i += len(ba)
            return True, True, len(ba), self.i

    return FastValidator


def is_utf8(received):
    """Return True for whole UTF-8; the codec of Python 2.7 lets surrogates pass."""
    try:
        received.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return _SURROGATE.search(received) is None


if __name__ == "__main__":
    main(*sys.argv[1:])
