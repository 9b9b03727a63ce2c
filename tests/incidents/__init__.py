"""Ten incidents on live processes, and where each is named."""
