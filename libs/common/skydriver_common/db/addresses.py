"""Addresses of databases: one server, or several of which one takes writes."""

from urllib.parse import parse_qs, quote

from skydriver_common.trust import ca_file

_SESSION_ATTRIBUTE = "target_session_attrs"


def with_defaults(database_url: str) -> str:
    """Return the URL with what it does not say itself: among several servers it asks for the one that takes writes.

    Both drivers understand ``postgresql://user:password@one:5432,two:5432/name?target_session_attrs=read-write``. A URL that asks for
    the server's certificate to be verified (``sslmode=verify-full``) gets our authorities, unless it names some.
    """
    address, question, query = database_url.partition("?")
    parameters = parse_qs(query)
    place = address.partition("://")[2].partition("/")[0].rpartition("@")[2]
    more = []
    if _SESSION_ATTRIBUTE not in parameters and "," in place + "".join(parameters.get("host", ())):
        more.append(f"{_SESSION_ATTRIBUTE}=read-write")
    bundle = ca_file()
    if bundle is not None and "sslrootcert" not in parameters and parameters.get("sslmode", [""])[-1].startswith("verify-"):
        more.append(f"sslrootcert={quote(str(bundle))}")
    if not more:
        return database_url
    return f"{database_url}{'&' if question and query else '' if question else '?'}{'&'.join(more)}"
