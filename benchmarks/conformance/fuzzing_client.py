"""
Run cases of the Autobahn suite: fuzzing_client.py FOLDER SPECIFICATION.

For CPython 2.7, the only one that the suite runs on. FOLDER is where it is
installed, SPECIFICATION the JSON that `wstest --mode fuzzingclient` takes in a file.
"""

# Python 2.7 knows no annotations, and its libraries are not those of the project.
# mypy: ignore-errors

import json
import site
import sys


def main(folder, specification):
    # zope is a namespace package, which only a site folder's .pth files make.
    site.addsitedir(folder)
    sys.path.insert(0, folder)
    from autobahntestsuite import fuzzing
    from twisted.internet import reactor

    fuzzing.startClient(json.loads(specification))
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
