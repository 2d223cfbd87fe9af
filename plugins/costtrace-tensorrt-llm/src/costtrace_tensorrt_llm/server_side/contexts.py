"""The contexts of requests that wait for their first batch, by the ids that a rank knows."""

from collections import OrderedDict

CAPACITY = 16_384


class Contexts:
    """Encoded contexts (`request_context`) by the executor's id and by the client's. The oldest go first."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[tuple[str, int], str] = OrderedDict()

    def remember(self, text: str, executor_ids: list[int], client_id: int = -1) -> None:
        """Keep *text* for a request and its further answers."""
        for name in executor_ids:
            self._by_id["executor", name] = text
        if client_id >= 0:
            self._by_id["client", client_id] = text
        while len(self._by_id) > CAPACITY:
            self._by_id.popitem(last=False)

    def of(self, executor_id: int, parent: int, client_id: int) -> str:
        """The text of a request; '' where none is known."""
        keys = (("executor", executor_id), ("executor", parent), ("client", client_id))
        return next((text for key in keys if (text := self._by_id.get(key))), "")
