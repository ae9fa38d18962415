"""The scanner server's command line. Source: REST contract 8.1."""

from skydriver_common.model.scan_request import ScanRequest

_REAL = ("real", "real_event")


def scanner_server_args(request: ScanRequest) -> str:
    """The words of the scanner container's ``args``, joined by single spaces.

    request: its ``nsides`` keep the order posted, the threshold prints as it was posted.
    """
    return " ".join(
        [
            "python -m skymap_scanner.server",
            f"--reco-algo {request['reco_algo']}",
            "--cache-dir /common-space",
            "--client-startup-json /common-space/startup.json",
            "--nsides " + " ".join(f"{nside}:{extension}" for nside, extension in request["nsides"].items()),
            "--real-event" if request["real_or_simulated_event"] in _REAL else "--simulated-event",
            f"--predictive-scanning-threshold {request['predictive_scanning_threshold']}",
        ]
    )
