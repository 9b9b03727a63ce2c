"""Actions and observers: djangochannelsrestframework's consumer, limited."""

from django.contrib.auth.models import Group
from djangochannelsrestframework.decorators import action
from djangochannelsrestframework.generics import GenericAsyncAPIConsumer
from djangochannelsrestframework.mixins import CreateModelMixin, ListModelMixin
from djangochannelsrestframework.observer import model_observer
from djangochannelsrestframework.permissions import AllowAny
from rest_framework.serializers import ModelSerializer

from connections.consumers import LimitedJsonConsumer


class GroupSerializer(ModelSerializer):
    class Meta:
        model = Group
        fields = ["name"]


class Groups(
    LimitedJsonConsumer, ListModelMixin, CreateModelMixin, GenericAsyncAPIConsumer
):
    """Orchestra's class is the first base, and hides none of the library's methods."""

    queryset = Group.objects.order_by("pk")
    serializer_class = GroupSerializer
    permission_classes = (AllowAny,)

    @model_observer(Group)
    async def group_changed(self, message, observer=None, **kwargs):
        await self.send_json({"changed": message})

    @group_changed.serializer
    def group_changed(self, instance, action, **kwargs):
        return {"action": action.value, "name": instance.name}

    @action()
    async def watch(self, **kwargs):
        await self.group_changed.subscribe()
        return {"watching": True}, 200
