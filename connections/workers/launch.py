"""Find out how this process was started, so that its workers start alike."""

import os
import sys


def find_command(folder: str) -> list[str]:
    """Return the command that started this process in a folder."""
    program, *arguments = sys.orig_argv
    # sys.executable is absolute, so that it would be that of the old release.
    is_in_folder = (
        "/" in program
        and not os.path.isabs(program)
        and os.path.exists(os.path.join(folder, program))
    )
    return [program if is_in_folder else sys.executable, *arguments]


def find_start_folder() -> str:
    """
    Return the folder in which this process was started, as $PWD names it.

    That may be a link to a release, where the current folder is the release. Not every
    program that changes its folder changes $PWD too: it counts if it is the folder.
    """
    main, given = sys.modules["__main__"], sys.argv[0]
    script = getattr(main, "__file__", None) or ""
    folder = os.getcwd()
    if not os.path.isabs(given) and script.endswith(f"/{given}"):
        # Python made the path absolute before settings could change the folder.
        folder = script.removesuffix(f"/{given}") or "/"
    named = os.environ.get("PWD", "")
    try:
        is_folder = os.path.isabs(named) and os.path.samefile(named, folder)
    except OSError:
        is_folder = False
    return named if is_folder else folder
