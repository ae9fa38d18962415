"""Wires the progress service together."""

from skydriver_common.runtime.foundation import open_foundation
from skydriver_common.runtime.service import Service, run
from skydriver_progress import consumers
from skydriver_progress.settings import ProgressSettings


def main() -> None:
    """Run the service until it is told to stop."""
    settings = ProgressSettings.load()

    async def build(service: Service) -> None:
        foundation = await open_foundation(service, settings)
        consumers.register(foundation.broker, foundation.uow)
        await foundation.start_consuming()

    run("progress", settings, build)
