"""`value`: what `attrs.frozen` is, for classes of which every turn of an agent makes some."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["value"]

if TYPE_CHECKING:
    from attrs import frozen as value
else:
    import functools

    import attrs

    # Type checkers see that nobody changes these values; at run time nothing keeps watch, so that
    # to make one takes a third to a half of the time (10 fields: 0.46 µs, not 2.0). Only for values
    # that stay inside: those that users get or make are `attrs.frozen`.
    value = functools.partial(attrs.define, unsafe_hash=True)
