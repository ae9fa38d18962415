"""Addresses of databases: one server, or several of which one takes writes."""

from urllib.parse import parse_qs

_ASKS = "target_session_attrs"


def writable(database_url: str) -> str:
    """The URL, asking for a server that takes writes when it names several and does not say itself which it wants.

    Both drivers understand ``postgresql://user:password@one:5432,two:5432/name?target_session_attrs=read-write``.
    """
    address, question, query = database_url.partition("?")
    parameters = parse_qs(query)
    place = address.partition("://")[2].partition("/")[0].rpartition("@")[2]
    if _ASKS in parameters or "," not in place + "".join(parameters.get("host", ())):
        return database_url
    return f"{database_url}{'&' if question and query else '' if question else '?'}{_ASKS}=read-write"
