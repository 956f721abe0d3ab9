"""Messages that can be told from each other, and who sends them."""

from asyncfl.messages import Message, Missing

PEER = bytes(range(32))


def numbered(number: int) -> Missing:
    """The message of that number."""
    return Missing(blob=number.to_bytes(32, "big"))


def number_of(message: Message) -> int:
    """Its number."""
    assert isinstance(message, Missing)
    return int.from_bytes(message.blob, "big")
