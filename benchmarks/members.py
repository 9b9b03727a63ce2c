"""The load generator of one node of several, which counts what its members receive."""

from connections.capacity.load.client import Client, keep_alive
from connections.capacity.load.generator import Answer, Steps, main


class MemberSteps(Steps):
    """Steps that also count the bytes that clients receive between other steps."""

    received_bytes = 0

    def count(self, group: str) -> Answer:
        """Count the bytes that a group receives from now on."""
        self.received_bytes = 0
        for client in self.groups[group]:
            client.on_data = self._take
        return {}

    def counted(self) -> Answer:
        """Return the bytes since count()."""
        return {"received_bytes": self.received_bytes}

    def _take(self, client: Client, received: bytes) -> None:
        self.received_bytes += len(received)
        keep_alive(client, received)


if __name__ == "__main__":
    main(MemberSteps)
