"""Keeps what an exec plugin gives fresh: its tokens live for minutes, this process for weeks."""

import asyncio
from typing import Any

import structlog
from kubernetes_asyncio.client import Configuration
from kubernetes_asyncio.config import ConfigException

logger = structlog.get_logger(__name__)

PLUGIN_TIMEOUT_S = 30.0
_FAILURES = (ConfigException, OSError, TimeoutError, RuntimeError, ValueError, KeyError, TypeError)
"""What comes of a plugin that fails, or gives something odd."""


class NotRenewable(Exception):
    """This kind of credential ends before the service does; the text says what to use instead."""


def uses_plugin(loader: Any) -> bool:
    """Whether the kubeconfig's user has its token from an exec plugin. loader: the library's, after it has loaded.

    Raises NotRenewable.
    """
    user = loader._user or {}  # the library has no other way to ask
    if loader.provider == "oidc":
        raise NotRenewable(
            "the kubeconfig's auth-provider oidc is not supported; use an exec plugin or a service account token"
        )
    if "exec" not in user:
        return False
    if not hasattr(loader, "token"):
        raise NotRenewable(
            "the kubeconfig's exec plugin returns a certificate, which is not supported; use one that returns a token"
        )
    return True


async def keep_fresh(loader: Any, configuration: Configuration, *, every_s: float = 60.0) -> None:
    """Ask the plugin anew whenever its token is about to end; for ever. One that gives no end is asked every so often.

    A plugin that fails is asked again: until its old token ends nothing is lost.
    """
    while True:
        await asyncio.sleep(every_s)
        try:
            async with asyncio.timeout(PLUGIN_TIMEOUT_S):
                await loader.load_from_exec_plugin()
        except _FAILURES as error:  # its text is not repeated: what a program of somebody else writes may be secret
            logger.error("kubernetes.credentials-not-renewed", error=type(error).__name__)
            continue
        configuration.api_key["BearerToken"] = loader.token
