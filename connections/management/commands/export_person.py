import json
from typing import Any

from django.core.management.base import CommandParser
from django.core.serializers.json import DjangoJSONEncoder

from connections.audit import record
from connections.management.lookups import add_person, find_person
from connections.management.operator_command import OperatorCommand
from connections.models import AuditEntry
from connections.personal_data.tables import export


class Command(OperatorCommand):
    help = "Print what the tables hold about a user or a client, as JSON."

    def add_arguments(self, parser: CommandParser) -> None:
        add_person(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        person = find_person(options)
        found = {
            "client_ids": person.client_ids,
            "user": person.user_key,
            **export(person),
        }
        is_user = person.user_key is not None
        record(
            AuditEntry(
                action="export",
                target="user" if is_user else "client",
                value=str(person.user_key) if is_user else person.client_ids[0],
            )
        )
        self.stdout.write(json.dumps(found, indent=2, cls=DjangoJSONEncoder))
