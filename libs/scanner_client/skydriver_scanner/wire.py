"""The old name of ``protocol``, kept with the old names in it, since scanners outside import them."""

from skydriver_scanner.protocol import *  # noqa: F403
from skydriver_scanner.protocol import MessageRejected, PackedMessage, UnpackedMessage, parse_sequence

MessageRefused = MessageRejected
Packed = PackedMessage
Received = UnpackedMessage
number_of = parse_sequence
