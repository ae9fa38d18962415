"""Which certificate authorities this process trusts beside the system's: those of one file (``SKYDRIVER_CA_FILE``).

Set once at the start, before anything connects; every TLS connection to a server of ours or of a partner asks here.
"""

import ssl
from pathlib import Path
from urllib.parse import urlencode, urlsplit

__all__ = ["amqp_parameters", "ca_file", "check_bundle", "client_context", "trust"]

_trusted: list[Path] = []


def trust(bundle: Path | None) -> None:
    """Trust the authorities of this PEM file as well from now on; None: the system's alone."""
    _trusted[:] = [] if bundle is None else [bundle]


def ca_file() -> Path | None:
    """The file that ``trust`` was given."""
    return _trusted[0] if _trusted else None


def check_bundle(bundle: Path) -> None:
    """Return when the file holds certificates. Raises ValueError, one line."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(bundle)
    except FileNotFoundError as error:
        raise ValueError("the file does not exist") from error
    except ssl.SSLError as error:
        raise ValueError("must be a file of PEM certificates") from error
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error


def client_context() -> ssl.SSLContext:
    """What verifies a server's certificate and name, by the system's authorities and ours."""
    context = ssl.create_default_context()
    if (bundle := ca_file()) is not None:
        context.load_verify_locations(bundle)
    return context


def amqp_parameters(amqp_url: str) -> str:
    """The parameters of a broker's URL that make its connection trust our authorities, ``""`` when there is nothing to add."""
    url, bundle = urlsplit(amqp_url), ca_file()
    if bundle is None or url.scheme != "amqps" or "cafile=" in url.query or "no_verify_ssl=" in url.query:
        return ""
    # a client that is given a file forgets the system's authorities, unless it is given their folder, too
    folder = ssl.get_default_verify_paths().capath
    return urlencode({"cafile": str(bundle)} | ({"capath": folder} if folder else {}))
