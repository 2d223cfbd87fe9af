"""What a token reads of its context where layers see only a window of it: closed forms in whole numbers.

Of each `full` + `sliding` layers, `full` read the whole context and `sliding` at most `window` tokens of it. Reads are
counted in *units*: one KV token in one of these layers. A sequence that decodes reads ``units`` more with each step
until its context has reached the window, and ``full`` more from then on: one event a sequence, else nothing changes
(docs/method/paper.md section 6).
"""

from math import gcd

import msgspec

from costtrace.core.events import ModelShape


class AttentionReach(msgspec.Struct, frozen=True):
    """How far a model's layers look back."""

    full: int
    sliding: int
    window: int
    """Tokens."""

    @property
    def units(self) -> int:
        """Reads of one KV token that all layers see."""
        return self.full + self.sliding

    def read(self, context: int) -> int:
        """Units that a decode reads of *context* tokens."""
        return self.full * context + self.sliding * min(context, self.window)

    def growth(self, *, capped: bool) -> tuple[int, int]:
        """(units by token of context, units beside them) of a decode below the window, or beyond it."""
        return (self.full, self.sliding * self.window) if capped else (self.units, 0)

    def tokens(self, context: int) -> int:
        """The same in KV tokens that all layers would see, rounded down."""
        return self.read(context) // self.units

    def attention(self, tokens: int, context: int) -> int:
        """Attention work of a prefill chunk, in (token x KV token) of all layers, rounded down."""
        whole = tokens * context + tokens * tokens // 2
        below = max(0, min(tokens, self.window - context))
        seen = below * context + below * below // 2 + (tokens - below) * self.window
        return (self.full * whole + self.sliding * seen) // self.units


def reach_of(shape: ModelShape) -> AttentionReach | None:
    """Of a model; None: all of its layers see everything, as far as is known."""
    if not shape.window or not shape.sliding_layers:
        return None
    full = max(0, shape.layers - shape.sliding_layers)
    common = gcd(full, shape.sliding_layers)
    return AttentionReach(full // common, shape.sliding_layers // common, shape.window)
