"""Who asks, by the ids that ranks know: what the server said of a request waits here for its first batch."""

from collections import OrderedDict

KEPT = 16_384


class Contexts:
    """Texts of `carrier`, bounded: by the executor's id and by the client's."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[tuple[str, int], str] = OrderedDict()

    def remember(self, text: str, executor_ids: list[int], client_id: int = -1) -> None:
        """Keep *text* for a request and its children."""
        for name in executor_ids:
            self._by_id["executor", name] = text
        if client_id >= 0:
            self._by_id["client", client_id] = text
        while len(self._by_id) > KEPT:
            self._by_id.popitem(last=False)

    def of(self, executor_id: int, parent: int, client_id: int) -> str:
        """What was said of a request; '' where nothing was."""
        for key in (("executor", executor_id), ("executor", parent), ("client", client_id)):
            text = self._by_id.get(key)
            if text:
                return text
        return ""


contexts = Contexts()
"""Of this process."""
