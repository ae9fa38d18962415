"""What the watch has seen and nobody has dealt with yet: at most one piece of news per scan, the newest."""

from collections.abc import Callable

from skydriver_dispatcher.ports import News, RoomMade, ScannerExit, ScannerStage


class NewsBoard:
    """Bounded by the number of scans in the cluster, whatever the rate of pod updates: a newer stage replaces an older one, an
    end replaces every stage and is replaced by none."""

    def __init__(self) -> None:
        self._news: dict[str, ScannerExit | ScannerStage] = {}
        self._has_room = False
        self._wake: list[Callable[[], None]] = []

    def put(self, news: News) -> None:
        """Note it down, and wake who deals with it."""
        if isinstance(news, RoomMade):
            self._has_room = True
        elif not isinstance(self._news.get(news.scan_id), ScannerExit):
            self._news[news.scan_id] = news
        for wake in self._wake:
            wake()

    def take(self) -> News | None:
        """The oldest scan's news, or None."""
        if self._has_room:
            self._has_room = False
            return RoomMade()
        if not self._news:
            return None
        return self._news.pop(next(iter(self._news)))

    def on_news(self, wake: Callable[[], None]) -> None:
        """Call this at each piece of news."""
        self._wake.append(wake)

    def clear(self) -> None:
        """Forget everything: another replica watches now, and sees it all itself."""
        self._news.clear()
        self._has_room = False
