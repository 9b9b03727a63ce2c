"""
Run cases of the Autobahn suite: fuzzing_client.py FOLDER SPECIFICATION.

This script runs on CPython 2.7, as the suite requires. FOLDER is the installed
suite, SPECIFICATION the JSON that `wstest --mode fuzzingclient` reads from a file.
"""

# Python 2.7 has no annotations, and its libraries are not installed here.
# mypy: ignore-errors

import json
import site
import sys


def main(folder, specification):
    # zope is a namespace package, which needs the .pth files of a site folder.
    site.addsitedir(folder)
    sys.path.insert(0, folder)
    from autobahntestsuite import fuzzing
    from twisted.internet import reactor

    fuzzing.startClient(json.loads(specification))
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
