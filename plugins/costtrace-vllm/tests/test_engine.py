"""The recorded subclass of a scheduler."""

from costtrace_vllm.engine_side.engine import recorded_class


class Scheduler:
    """Some class of scheduler."""


def test_the_recorded_class_has_the_name_of_its_base_and_is_made_once():
    recorded = recorded_class(Scheduler)
    assert recorded is recorded_class(Scheduler)
    assert recorded is recorded_class(recorded)
    assert (recorded.__module__, recorded.__qualname__) == (Scheduler.__module__, Scheduler.__qualname__)
    assert issubclass(recorded, Scheduler)
