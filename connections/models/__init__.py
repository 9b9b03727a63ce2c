"""Store nodes, connections, errors, credentials, bans, requests and statistics."""

from connections.models.alert import Alert
from connections.models.audit_entry import AuditEntry
from connections.models.ban import Ban
from connections.models.close_request import CloseRequest
from connections.models.connection import Connection, ErrorEvent
from connections.models.credentials import AccessToken, Ticket
from connections.models.forget_request import ForgetRequest
from connections.models.live_state import LiveDashboard, NodePicture
from connections.models.minute_rollup import HourRollup, MinuteRollup
from connections.models.node import Node
from connections.models.node_command import NodeCommand
from connections.models.refused_handshake import RefusedHandshake
from connections.models.sweep import Sweep

__all__ = [
    "AccessToken",
    "Alert",
    "AuditEntry",
    "Ban",
    "CloseRequest",
    "Connection",
    "ErrorEvent",
    "ForgetRequest",
    "HourRollup",
    "LiveDashboard",
    "MinuteRollup",
    "Node",
    "NodeCommand",
    "NodePicture",
    "RefusedHandshake",
    "Sweep",
    "Ticket",
]
