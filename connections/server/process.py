"""Begin the log of a server's process."""

from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    STDLibLogObserver,
    globalLogBeginner,
)


def begin_logging(verbosity: int) -> None:
    """Pass Twisted's log on, which daphne throws away."""
    observer = STDLibLogObserver("twisted")
    if verbosity <= 1:
        level = LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)
        observer = FilteringLogObserver(observer, [level])
    globalLogBeginner.beginLoggingTo(
        [observer], redirectStandardIO=False, discardBuffer=True
    )
