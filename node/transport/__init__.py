"""Authenticated channels over WebSocket: messages, blobs, reconnection (protocol section 8)."""

from node.transport.endpoint import Endpoint, Handler
from node.transport.limits import Limits
from node.transport.link import Counters

__all__ = ["Counters", "Endpoint", "Handler", "Limits"]
