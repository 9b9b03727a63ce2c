"""GraphQL over WebSockets: strawberry's consumer, limited."""

import asyncio

import strawberry
from strawberry.channels import GraphQLWSConsumer

from connections.consumers import LimitedConsumer


@strawberry.type
class Query:
    @strawberry.field
    def greeting(self) -> str:
        return "hello"


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def countdown(self, start: int) -> int:
        for number in range(start, 0, -1):
            yield number
            await asyncio.sleep(0)

    @strawberry.subscription
    async def notes(self, info: strawberry.Info) -> str:
        """Listen to the channel layer in a task of its own, not in a handler."""
        consumer = info.context["ws"]
        async with consumer.listen_to_channel("note", groups=["notes"]) as notes:
            yield "ready"
            async for note in notes:
                yield note["text"]


class GraphQL(GraphQLWSConsumer, LimitedConsumer):
    pass


class GraphQLBehind(LimitedConsumer, GraphQLWSConsumer):
    """The same with its bases in the other order."""


def make_application(consumer):
    schema = strawberry.Schema(query=Query, subscription=Subscription)
    return consumer.as_asgi(schema=schema)
