"""Sizes of memory and disk, as people write them. Source: REST contract 8.3."""

import re
from functools import lru_cache

import humanfriendly

MAX_BYTES = 2**63 - 1

# humanfriendly looks at the first two tokens only and takes what it can; the contract wants one number and one unit
_SIZE = re.compile(r"\s*[0-9]+(?:\.[0-9]+)?(?:\s*[bkmgtpezy][^0-9]*)?\s*", re.IGNORECASE)


class InvalidSize(ValueError):
    """Not a size. The message says what was expected."""


@lru_cache(maxsize=512)
def parse_size(text: str) -> int:
    """Bytes meant by a text such as ``8GB``, ``1024M``, ``4GiB``, ``512``; fractions of a byte are cut off.

    Decimal units unless spelled ``KiB`` or ``kibibyte``: ``4Gi`` is 4000000000, as humanfriendly reads it.
    Raises InvalidSize for any other text, for less than one byte and for more than 63 bits hold.
    """
    if _SIZE.fullmatch(text) is None:
        raise InvalidSize('must be a size such as "8GB", "1024M", "4GiB" or a number of bytes')
    try:
        size = int(humanfriendly.parse_size(text))
    except (humanfriendly.InvalidSize, ValueError, OverflowError):
        raise InvalidSize('must be a size such as "8GB", "1024M", "4GiB" or a number of bytes') from None
    if size < 1:
        raise InvalidSize("must be 1 byte or more")
    if size > MAX_BYTES:
        raise InvalidSize(f"must be at most {MAX_BYTES} bytes")
    return size
