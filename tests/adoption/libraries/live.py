"""Live components: tetra's consumer, limited."""

from tetra.consumers import TetraConsumer

from connections.consumers import LimitedJsonConsumer


class Components(TetraConsumer, LimitedJsonConsumer):
    pass


class ComponentsBehind(LimitedJsonConsumer, TetraConsumer):
    """The same with its bases in the other order."""
