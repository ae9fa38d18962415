"""Reading what other servers answer: never more than is sensible."""

import aiohttp


async def read_limited(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """The body of an answer, whether its length was announced or not. Raises ValueError when it is larger."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most_bytes:
            raise ValueError(f"the answer is too large (more than {most_bytes} bytes)")
    return bytes(body)
