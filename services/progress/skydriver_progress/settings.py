"""Settings of the progress service."""

from skydriver_common.runtime.settings import ServiceSettings


class ProgressSettings(ServiceSettings):
    """Nothing of its own: what all services have is enough."""
