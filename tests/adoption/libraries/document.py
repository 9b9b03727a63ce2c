"""A shared document: pycrdt's Yjs protocol over a limited consumer."""

from pycrdt import (
    Doc,
    Text,
    YMessageType,
    YSyncMessageType,
    create_sync_message,
    create_update_message,
    handle_sync_message,
)

from connections.consumers import LimitedConsumer

KEY = "text"


class Document(LimitedConsumer):
    """Keeps one document in memory and answers the synchronisation of a client."""

    doc: Doc

    async def connect(self):
        await self.accept()
        await self.send(bytes_data=create_sync_message(self.doc))

    async def receive(self, text_data=None, bytes_data=None):
        if bytes_data[0] == YMessageType.SYNC:
            answer = handle_sync_message(bytes_data[1:], self.doc)
            if answer is not None:
                await self.send(bytes_data=answer)


def make_consumer():
    """Return a consumer with an empty document."""
    return type("Empty", (Document,), {"doc": Doc({KEY: Text()})})


class Typist:
    """A client: types letter by letter, each an update of its own."""

    def __init__(self):
        self.doc = Doc()
        self.text = self.doc.get(KEY, type=Text)
        self.updates = []
        self.doc.observe(lambda event: self.updates.append(event.update))

    def type(self, letters):
        """Return the messages for letters typed at the end."""
        self.updates.clear()
        for letter in letters:
            self.text += letter
        return [create_update_message(one) for one in self.updates]

    def ask(self):
        """Return the message that asks the server for what is missing here."""
        return create_sync_message(self.doc)

    def take(self, message):
        """Apply an answer of the server."""
        if message[1] != YSyncMessageType.SYNC_STEP1:
            handle_sync_message(message[1:], self.doc)
