"""Tell the URLs of a Redis Cluster apart, without redis-py."""

CLUSTER_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
"""The schemes of a cluster, and redis-py's for one of its nodes."""


def is_cluster_url(url: str) -> bool:
    """Return True if a URL names the nodes of a Redis Cluster."""
    return url.partition("://")[0].lower() in CLUSTER_SCHEMES
